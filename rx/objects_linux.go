package rx

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// objects are the maps of bpf/xdpct.c and those of its programs that are loaded.
type objects struct {
	maps    xdpMaps
	xdp     *ebpf.Program // xdpct, xdpct_tags or xdpct_glue
	segment *ebpf.Program // nil: nothing is cut
}

// devBoundOnly is BPF_F_XDP_DEV_BOUND_ONLY: a program for one device, which may ask its
// driver about a frame. Not in generic mode.
const devBoundOnly = 1 << 6

// loadGeneric loads the programs of generic mode. unglued is why that is not the one which
// knows a frame of many segments whatever its length; max_frame is then for the other to say.
func (o *objects) loadGeneric(spec *ebpf.CollectionSpec, mtuFrame uint32) (unglued, err error) {
	var glue struct {
		xdpMaps
		XDP     *ebpf.Program `ebpf:"xdpct_glue"`
		Segment *ebpf.Program `ebpf:"segment"`
	}
	if unglued = spec.LoadAndAssign(&glue, nil); unglued == nil {
		o.maps, o.xdp, o.segment = glue.xdpMaps, glue.XDP, glue.Segment
		return nil, nil
	}
	var all struct {
		xdpMaps
		XDP     *ebpf.Program `ebpf:"xdpct"`
		Segment *ebpf.Program `ebpf:"segment"`
	}
	if err := spec.Variables["max_frame"].Set(mtuFrame); err != nil {
		return unglued, err
	}
	err = spec.LoadAndAssign(&all, nil)
	o.maps, o.xdp, o.segment = all.xdpMaps, all.XDP, all.Segment
	return unglued, err
}

// load loads the program that a mode takes, for an interface, where nothing is cut.
func (o *objects) load(spec *ebpf.CollectionSpec, ifindex int, mode XDPMode) error {
	if mode == ModeGeneric { // large frames are dropped
		return o.loadPlain(spec)
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
	if err := o.loadPlain(spec); err != nil {
		return fmt.Errorf("%w (and with VLAN tags: %w)", err, errTags)
	}
	return nil
}

func (o *objects) loadPlain(spec *ebpf.CollectionSpec) error {
	var plain struct {
		xdpMaps
		XDP *ebpf.Program `ebpf:"xdpct"`
	}
	err := spec.LoadAndAssign(&plain, nil)
	o.maps, o.xdp = plain.xdpMaps, plain.XDP
	return err
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
