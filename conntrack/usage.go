package conntrack

// usage is what -h prints.
const usage = `Command line interface for the connection tracking of xdpct, with the options of conntrack(8).
Usage: conntrack [commands] [options]

Commands:
  -L [table] [options]		List conntrack or expectation table
  -G [table] parameters		Get conntrack
  -D [table] parameters		Delete conntrack or expectation
  -I [table] parameters		Create a conntrack or expectation
  -A [table] parameters		Add a conntrack
  -U [table] parameters		Update a conntrack
  -E [table] [options]		Show events
  -F [table]			Flush table
  -C [table]			Show counter
  -R [file]			Restore conntracks from file
  -S				Show statistics

Tables: conntrack, expect, dying, unconfirmed

Conntrack parameters and options:
  -n, --src-nat ip			source NAT ip[:port]
  -g, --dst-nat ip			destination NAT ip[:port]
  -j, --any-nat ip			source or destination NAT ip[:port]
  -m, --mark mark			Set mark
  -e, --event-mask eventmask		Event mask, eg. NEW,DESTROY
  -z, --zero 				Zero counters while listing
  -o, --output type[,...]		extended, xml, save, json, timestamp, id, ktimestamp, labels
  -l, --label label[,...]		conntrack labels
      --labelmap file			names of labels, instead of ` + defaultLabelMap + `

Expectation parameters and options:
  --tuple-src ip	Source address in expect tuple
  --tuple-dst ip	Destination address in expect tuple

Updating parameters and options:
  --label-add label	Add label
  --label-del label	Delete label

Common parameters and options:
  -s, --src, --orig-src ip		Source address from original direction
  -d, --dst, --orig-dst ip		Destination address from original direction
  -r, --reply-src ip			Source address from reply direction
  -q, --reply-dst ip			Destination address from reply direction
  -p, --protonum proto			Layer 4 Protocol, eg. 'tcp'
  -f, --family proto			Layer 3 Protocol, eg. 'ipv6'
  -t, --timeout timeout			Set timeout
  -u, --status status			Set status, eg. ASSURED
  -w, --zone value			Set conntrack zone
  --orig-zone value			Set zone for original direction
  --reply-zone value			Set zone for reply direction
  -b, --buffer-size bytes		Events to hold for a slow reader
  --mask-src ip				Source mask address
  --mask-dst ip				Destination mask address

Not there: -c (SELinux marks), -o userspace.
`
