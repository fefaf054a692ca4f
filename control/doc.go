// Package control is the local API of a running tracker and its client: HTTP
// over a unix socket, so that curl --unix-socket speaks it too.
//
//	GET  /v1/flows   ?format=text|json &extended=1 &family= &proto=   a line each
//	GET  /v1/flow    ?format= &proto= &src= &dst= &sport= &dport=     one, or 404
//	GET  /v1/events  ?format= &extended=1                             a line each, endless
//	GET  /v1/count                                                    a number
//	GET  /v1/stats                                                    JSON, see export.Stats
//	POST /v1/flush   ?family= &proto=                                 the number removed
//
// An error is a status of 400 or more and one line of text. In the stream of
// events a line "!lost N" says that N events could not be delivered.
//
// Who may open the socket may do everything: it is created with mode 0660.
package control
