// Package conntrack is the face of conntrack(8): its commands, options, output and
// exit codes, over the control socket of a running xdpct, so that scripts written
// for conntrack-tools run unchanged. It is `xdpct conntrack`, and the whole program
// if that is called conntrack.
//
// The options are read by code of our own, because no library knows their grammar:
// commands that are options and take a table as an optional argument, options that
// exist only for one protocol, and long names that may be abbreviated
// (getopt_long). What an option stands for is in one table, options.
//
//	args ─▶ parse ─▶ command ─▶ filter, flow, update … ─▶ control.Client ─▶ lines
//
// What Linux has and xdpct has not is refused by name, never ignored.
package conntrack
