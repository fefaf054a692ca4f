package rx

import (
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/xdpct/xdpct/internal/testenv"
	"github.com/xdpct/xdpct/perf/netlab"
)

// TestLookupInterface looks at devices that are software, of which all may hand over
// partial checksums.
func TestLookupInterface(t *testing.T) {
	testenv.Root(t)
	box, err := netlab.NewNS("box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(box.Close)
	if err := netlab.Join(netlab.Port{NS: box, Name: "two", Queues: 2}, netlab.Port{NS: box, Name: "far"}); err != nil {
		t.Fatal(err)
	}
	tun, err := box.OpenTun("tunnel", netlab.TunOptions{MTU: 1280})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
	attrs := func(name string) netlink.LinkAttrs { a := netlink.NewLinkAttrs(); a.Name = name; return a }
	if err := box.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs("br")}); err != nil {
		t.Fatal(err)
	}
	// Devices that may have 256 queues: one of which three are open, and a persistent one of
	// which none is.
	for name, open := range map[string]bool{"many": true, "later": false} {
		tun := &netlink.Tuntap{LinkAttrs: attrs(name), Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_MULTI_QUEUE | netlink.TUNTAP_NO_PI, NonPersist: open, Queues: 3}
		if err := box.Do(func() error { return netlink.LinkAdd(tun) }); err != nil {
			t.Fatal(err)
		}
		for _, f := range tun.Fds {
			if open {
				t.Cleanup(func() { f.Close() })
			} else {
				f.Close()
			}
		}
	}
	for name, want := range map[string]Interface{
		"two":    {MTU: 1500, Queues: 2, Partial: true},
		"tunnel": {MTU: 1280, Queues: 1, Partial: true, NoLink: true},
		"many":   {MTU: 1500, Queues: 3, Partial: true, NoLink: true},
		"later":  {MTU: 1500, Queues: 1, Partial: true, NoLink: true},
		"br":     {MTU: 1500, Queues: 1, Partial: true, Untags: true},
	} {
		var got Interface
		if err := box.Do(func() (err error) { got, err = LookupInterface(name); return err }); err != nil {
			t.Error(err)
			continue
		}
		want.Name, want.Index = name, got.Index
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if err := box.Do(func() error { _, err := LookupInterface("none"); return err }); err == nil || err.Error() != `there is no interface "none"` {
		t.Errorf("no interface: %v", err)
	}
}

// TestPartial: what hands over partial checksums by what it is and lies on.
func TestPartial(t *testing.T) {
	link := func(kind, bus string, index, parent, master int) netlink.Link {
		return &netlink.GenericLink{LinkType: kind, LinkAttrs: netlink.LinkAttrs{Index: index, ParentDevBus: bus, ParentIndex: parent, MasterIndex: master}}
	}
	card, virtual, veth := link("device", "pci", 1, 0, 0), link("device", "virtio", 2, 0, 0), link("veth", "", 3, 0, 0)
	slave, slaveToo := link("device", "pci", 4, 0, 10), link("veth", "", 5, 0, 11)
	all := []netlink.Link{card, virtual, veth, slave, slaveToo}
	for _, c := range []struct {
		what string
		link netlink.Link
		want bool
	}{
		{"a network card", card, false},
		{"a virtual machine's card", virtual, true},
		{"veth", veth, true},
		{"a bridge", link("bridge", "", 9, 0, 0), true},
		{"a bond of cards", link("bond", "", 10, 0, 0), false},
		{"a bond with a veth", link("bond", "", 11, 0, 0), true},
		{"a bond of nothing yet", link("bond", "", 12, 0, 0), true},
		{"a VLAN on a card", link("vlan", "", 13, 1, 0), false},
		{"a VLAN on a veth", link("vlan", "", 14, 3, 0), true},
		{"a VLAN on another namespace's", link("vlan", "", 15, 99, 0), true},
	} {
		if got := partial(c.link, all); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
