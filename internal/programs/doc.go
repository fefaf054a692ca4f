// Package programs lets programs as Debian has them speak protocols that open further
// connections through a router that translates: vsftpd with curl and lftp, tftpd-hpa with
// tftp, ngircd with two clients that exchange a file by DCC, SIPp with RTP in both
// directions, pptpd with pptp.
//
//	client 10.71.0.2 ── lan [ router ] wan ───────── 198.51.100.2 server
//	                              └─ poor ── relay ─ 203.0.113.2
//
// The router masquerades, and lets nothing begin but the protocols' own connections: what
// they announce comes through because it is RELATED, or not at all. It is xdpct, or the
// kernel with the same rules (flag -router), which shows that the test can be passed.
// A program that is not installed is skipped by name; .ci/programs installs them all.
package programs
