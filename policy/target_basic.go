package policy

import (
	"encoding/binary"

	"github.com/xdpct/xdpct/flow"
	"github.com/xdpct/xdpct/policy/syntax"
)

// reject compiles REJECT.
func reject(t *syntax.Reject) action {
	return action{do: func(v *View) Verdict {
		v.Reject = &t.With.With
		return Drop
	}}
}

// logPacket compiles LOG.
func logPacket(t *syntax.Log) action {
	return logs(&Log{
		Prefix: t.Prefix.S, Group: -1, Level: int(t.Level.N),
		TCPSequence: t.TCPSequence.Set, TCPOptions: t.TCPOptions.Set, IPOptions: t.IPOptions.Set, MACDecode: t.MAC.Set,
	})
}

func logs(l *Log) action {
	return action{log: l, do: func(v *View) Verdict {
		v.Env.Log(l)
		return Continue
	}}
}

// nfLog compiles NFLOG.
func nfLog(t *syntax.NFLog) action {
	return logs(&Log{Prefix: t.Prefix.S, Group: int(t.Group.N), Level: 6})
}

// audit compiles AUDIT: the kernel's records of audit are not to be had here, so the same
// is logged as LOG does.
func audit(t *syntax.Audit) action {
	return logs(&Log{Prefix: "audit: type=" + t.Type.S + " ", Group: -1, Level: 6})
}

// setMark compiles MARK.
func setMark(t *syntax.SetMark) action {
	return action{do: func(v *View) Verdict {
		v.Mark = v.Mark&^t.X.Mask ^ t.X.V
		return Continue
	}}
}

// setConnMark compiles CONNMARK.
func setConnMark(t *syntax.SetConnMark) action {
	nf, ct := t.NFMask.V, t.CTMask.V
	return action{do: func(v *View) Verdict {
		switch {
		case !v.Tracked:
		case t.X.Set:
			v.ConnMark = v.ConnMark&^t.X.Mask ^ t.X.V
		case t.Save.Set:
			v.ConnMark = v.ConnMark&^ct ^ v.Mark&nf
		default:
			v.Mark = v.Mark&^nf ^ v.ConnMark&ct
		}
		return Continue
	}}
}

// setTOS compiles TOS.
func setTOS(t *syntax.SetTOS) action {
	return action{do: func(v *View) Verdict {
		v.setTOS(tosOf(v)&^uint8(t.X.Mask) ^ uint8(t.X.V))
		return Continue
	}}
}

func (v *View) setTOS(tos uint8) {
	if tos != tosOf(v) {
		v.P.SetTOS(tos)
	}
}

// setDSCP compiles DSCP.
func setDSCP(t *syntax.SetDSCP) action {
	return action{do: func(v *View) Verdict {
		v.setTOS(uint8(t.DSCP.N)<<2 | tosOf(v)&3)
		return Continue
	}}
}

// setHops compiles TTL and HL.
func setHops(t *syntax.SetHops) action {
	return action{do: func(v *View) Verdict {
		n := hops(v)
		switch {
		case t.To.Set:
			n = t.To.N
		case t.Inc.Set:
			n = min(n+t.Inc.N, 255)
		default:
			n -= min(n, t.Dec.N)
		}
		if n != hops(v) {
			v.P.SetHops(uint8(n))
		}
		return Continue
	}}
}

// setMSS compiles TCPMSS.
func setMSS(t *syntax.SetMSS) action {
	return action{do: func(v *View) Verdict {
		mss, headers := t.MSS.N, uint64(40)
		if v.family() == flow.IPv6 {
			headers = 60
		}
		if t.Clamp.Set {
			mtu := min(v.Env.PathMTU(v.Dst, v.family()), v.Env.PathMTU(v.Src, v.family()))
			if uint64(mtu) <= headers {
				return Drop
			}
			mss = uint64(mtu) - headers
		}
		if !v.clampMSS(uint16(min(mss, 65535))) {
			return Drop
		}
		return Continue
	}}
}

// clampMSS lowers the MSS option of a SYN; one without gets it, if it carries no
// data (tcpmss_mangle_packet). ok is false if the header is cut off.
func (v *View) clampMSS(mss uint16) (ok bool) {
	if v.P.Proto != flow.TCP {
		return true
	}
	all, ok := v.tcpOptions()
	if !ok {
		return false
	}
	if o := mssOption(all); o != nil {
		if old := binary.BigEndian.Uint16(o[2:]); old > mss {
			v.P.SetMSS(o, mss)
		}
		return true
	}
	most := uint16(536)
	if v.family() == flow.IPv6 {
		most = 1220
	}
	v.P.AddMSS(min(mss, most))
	return true
}
