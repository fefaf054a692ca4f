package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/packet"
)

// matched runs one match on a view and reports whether it holds.
func matched(t *testing.T, match string, f flow.Family, change func(v *View)) bool {
	t.Helper()
	p := compile(t, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD "+match+" -j ACCEPT\nCOMMIT\n", f, nil)
	v := viewOf(t, p, datagram("10.1.0.1", 1, 1), 0)
	change(v)
	return p.Run(FilterForward, v) == Accept
}

// TestTime compares -m time with package time, over days, months and years.
func TestTime(t *testing.T) {
	for at := time.Date(1999, 12, 25, 0, 0, 0, 0, time.UTC); at.Year() < 2038; at = at.Add(1013*time.Hour + 17*time.Minute) {
		day := int(at.Weekday()+6)%7 + 1
		for _, c := range []struct {
			match string
			want  bool
		}{
			{fmt.Sprintf("-m time --weekdays %d", day), true},
			{fmt.Sprintf("-m time ! --weekdays %d", day), false},
			{fmt.Sprintf("-m time --monthdays %d", at.Day()), true},
			{fmt.Sprintf("-m time --monthdays %d", at.Day()%31+1), false},
			{"-m time --timestart 06:00 --timestop 18:00", at.Hour() >= 6 && at.Hour() < 18 || at.Hour() == 18 && at.Minute() == 0},
			{"-m time --datestart " + at.Format("2006-01-02T15:04:05"), true},
			{"-m time --datestop " + at.Add(-time.Second).Format("2006-01-02T15:04:05"), false},
			{fmt.Sprintf("-m time --timestart 23:00 --timestop 22:59:59 --contiguous --weekdays %d", int(at.Add(-23*time.Hour).Weekday()+6)%7+1), true},
		} {
			if got := matched(t, c.match, flow.IPv4, func(v *View) { v.Wall = at.UnixNano() }); got != c.want {
				t.Errorf("%v, %s: %v", at, c.match, got)
			}
		}
	}
}

// TestHelper: -m helper asks for the helper of the connection's master.
func TestHelper(t *testing.T) {
	ftp, _ := flow.HelperByName("ftp")
	for _, c := range []struct {
		match string
		x     *flow.Extra
		want  bool
	}{
		{"-m helper --helper ftp", &flow.Extra{MasterHelper: ftp}, true},
		{"-m helper --helper ftp-2121", &flow.Extra{MasterHelper: ftp}, true}, // strncmp by the helper's length
		{"-m helper --helper sip", &flow.Extra{MasterHelper: ftp}, false},
		{"-m helper ! --helper sip", &flow.Extra{MasterHelper: ftp}, true},
		{`-m helper --helper ""`, &flow.Extra{MasterHelper: ftp}, true},
		{`-m helper --helper ""`, &flow.Extra{}, false},
		{"-m helper --helper ftp", nil, false},
		{"-m helper ! --helper ftp", nil, true},
	} {
		got := matched(t, c.match, flow.IPv4, func(v *View) { v.Tracked, v.Conn, v.Extra = true, &flow.Conn{}, c.x })
		if got != c.want {
			t.Errorf("%s of %+v: %v", c.match, c.x, got)
		}
	}
}

// TestSpecialisedDrops: code made for a connection drops what the walk over the rules
// drops, where a match asks for what a packet lacks.
func TestSpecialisedDrops(t *testing.T) {
	p := compile(t, "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp ! --tcp-option 5 -j ACCEPT\nCOMMIT\n", flow.IPv4, nil)
	ip := packet.IP{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.1")}
	whole := viewOf(t, p, packet.AppendTCP(nil, ip, 1, 2, packet.Segment{Flags: packet.ACK}), 0)
	var sp Special
	sp.Begin(0, 1)
	sp.Hook(p, FilterForward, whole)
	code, _, ok := sp.End()
	if !ok || code.Run(FilterForward, whole) != Accept {
		t.Fatal("no code")
	}
	cut := packet.AppendTCP(nil, ip, 1, 2, packet.Segment{Flags: packet.ACK})
	cut[20+12] = 15 << 4
	if v := code.Run(FilterForward, viewOf(t, p, cut, 0)); v != Drop {
		t.Errorf("a segment whose options are cut off: %v", v)
	}
}
