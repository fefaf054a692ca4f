// Package control is the local API of a running tracker and its client: HTTP
// over a unix socket, so that curl --unix-socket speaks it too.
//
//	GET  /v1/flows            ?filter= &format=text|json|xml|save …     a line each
//	POST /v1/flows            body: a connection as JSON lists it       makes it
//	POST /v1/flows/delete     ?filter= &format= …                       a line for each removed
//	POST /v1/flows/update     ?filter= &format= …, body: Update         a line for each changed
//	POST /v1/flows/zero       ?filter= &format= …                       lists, and zeroes counters
//	GET  /v1/flow             ?format= &proto= &src= &dst= &sport= &dport= &zone=   one, or 404
//	GET  /v1/events           ?filter= &kinds=NEW,UPDATE,DESTROY &buffer= &format= …  a line each, endless
//	GET  /v1/count                                                      a number
//	GET  /v1/version                                                    JSON: {"version": …}
//	GET  /v1/stats                                                      JSON, see export.Stats
//	POST /v1/flush            ?filter=                                  the number removed
//	GET  /v1/expectations     ?format=text|json&family=                 a line each
//	GET  /v1/expectations/events                                        a line each, endless
//	POST /v1/expectations     body: Expectation                         makes it
//	POST /v1/expectations/delete  ?filter=                              the number removed
//	GET  /v1/rules            ?family=ipv4|ipv6 &counters=1             as iptables-save prints them
//	POST /v1/rules            ?family=ipv4|ipv6, body: the same         puts its tables into force
//
// A filter is a flow.Filter in JSON; family= and proto= do for simple ones. The
// details of a format are extended=1, id=1, ktimestamp=1, labels=1 with
// labelnames={"number":"name"}, and timestamp=1 for events.
//
// An error is a status of 400 or more and one line of text: 400 what was asked wrongly,
// 404 no such connection, 409 there is such a one already, 503 too many clients or readers
// of events. The answer to a request for events begins when all that happens from then on
// is in it. An answer that breaks off in the middle is not complete. In the stream of
// events a line "!lost N" says that N events could not be delivered: whoever then
// lists the connections knows all there is to know, since what changes after the
// listing began comes as an event.
//
// Who may open the socket may do everything: it is created with mode 0660. What clients may
// hold is bounded (Guard, ControlLimits). A file beside the socket, of the same name with
// .lock, is locked by the process that serves it.
//
// The package knows neither the engine nor the shards: what it serves is a Tracker.
package control
