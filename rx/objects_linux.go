package rx

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// objects are the maps of bpf/xdpct.c and those of its programs that are loaded.
type objects struct {
	maps    xdpMaps
	xdp     *ebpf.Program // xdpct or xdpct_tags
	segment *ebpf.Program // nil but in generic mode
}

// devBoundOnly is BPF_F_XDP_DEV_BOUND_ONLY: a program for one device, which may ask its
// driver about a frame. Not in generic mode.
const devBoundOnly = 1 << 6

// load loads the programs that a mode takes, for an interface.
func (o *objects) load(spec *ebpf.CollectionSpec, ifindex int, mode XDPMode) error {
	if mode == ModeGeneric {
		var all struct {
			xdpMaps
			XDP     *ebpf.Program `ebpf:"xdpct"`
			Segment *ebpf.Program `ebpf:"segment"`
		}
		err := spec.LoadAndAssign(&all, nil)
		o.maps, o.xdp, o.segment = all.xdpMaps, all.XDP, all.Segment
		return err
	}
	var tags struct {
		xdpMaps
		XDP *ebpf.Program `ebpf:"xdpct_tags"`
	}
	p := spec.Programs["xdpct_tags"]
	p.Ifindex, p.Flags = uint32(ifindex), p.Flags|devBoundOnly
	errTags := spec.LoadAndAssign(&tags, nil)
	if errTags == nil {
		o.maps, o.xdp = tags.xdpMaps, tags.XDP
		return nil
	}
	var plain struct {
		xdpMaps
		XDP *ebpf.Program `ebpf:"xdpct"`
	}
	if err := spec.LoadAndAssign(&plain, nil); err != nil {
		return fmt.Errorf("%w (and with VLAN tags: %w)", err, errTags)
	}
	o.maps, o.xdp = plain.xdpMaps, plain.XDP
	return nil
}

func (o *objects) close() (err error) {
	for _, p := range []*ebpf.Program{o.xdp, o.segment} {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	if o.maps.Sockets != nil {
		err = errors.Join(err, o.maps.Close())
	}
	*o = objects{}
	return err
}
