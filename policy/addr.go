package policy

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

func familyBits(f flow.Family) int {
	if f == flow.IPv4 {
		return 32
	}
	return 128
}

// parseAddr reads an address of family f.
func parseAddr(s string, f flow.Family) (flow.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "":
		return flow.Addr{}, errors.New("an address is expected (names are not looked up)")
	case a.Is4() != (f == flow.IPv4):
		return flow.Addr{}, fmt.Errorf("not an address of %v", f)
	}
	return flow.AddrFrom(a), nil
}

// parseAddrMask reads "address", "address/length" or "address/mask". Bits outside
// the mask are cut, as iptables does.
func parseAddrMask(s string, f flow.Family) (addr, mask flow.Addr, err error) {
	text, m, has := strings.Cut(s, "/")
	if f == flow.IPv4 && strings.Count(text, ".") < 3 && has {
		text += strings.Repeat(".0", 3-strings.Count(text, "."))
	}
	if addr, err = parseAddr(text, f); err != nil {
		return addr, mask, err
	}
	mask = prefixMask(familyBits(f), f)
	if has {
		if n, e := strconv.Atoi(m); e == nil {
			if n < 0 || n > familyBits(f) {
				return addr, mask, fmt.Errorf("the prefix length must be 0..%d", familyBits(f))
			}
			mask = prefixMask(n, f)
		} else if mask, err = parseAddr(m, f); err != nil {
			return addr, mask, errors.New("neither a prefix length nor a mask")
		} else if f == flow.IPv4 {
			mask.Lo = mask.Lo&0xffffffff | 0xffffffff<<32
			mask.Hi = ^uint64(0)
		}
	}
	kept := flow.Addr{Hi: addr.Hi & mask.Hi, Lo: addr.Lo & mask.Lo}
	return kept, mask, nil
}

// prefixMask returns the mask of n bits of an address of family f; those before an
// IPv4 address in its mapped form are all ones.
func prefixMask(n int, f flow.Family) flow.Addr {
	n += 128 - familyBits(f)
	if n <= 64 {
		return flow.Addr{Hi: ^(^uint64(0) >> n)}
	}
	return flow.Addr{Hi: ^uint64(0), Lo: ^(^uint64(0) >> (n - 64))}
}

// prefixLen is the inverse of prefixMask; ok is false if the mask has holes.
func prefixLen(m flow.Addr, f flow.Family) (n int, ok bool) {
	n = bits.LeadingZeros64(^m.Hi)
	if n == 64 {
		n += bits.LeadingZeros64(^m.Lo)
	}
	n -= 128 - familyBits(f)
	return n, n >= 0 && prefixMask(n, f) == m
}

func addrText(a flow.Addr, f flow.Family) string { return a.Netip(f).String() }

func addrMaskText(a, m flow.Addr, f flow.Family) string {
	if n, ok := prefixLen(m, f); ok {
		return fmt.Sprintf("%s/%d", addrText(a, f), n)
	}
	return addrText(a, f) + "/" + addrText(m, f)
}

// addrRange is "first-last".
type addrRange struct {
	given
	family flow.Family
	lo, hi flow.Addr
}

func (r *addrRange) read(args []string) (err error) {
	lo, hi, ranged := strings.Cut(args[0], "-")
	if r.lo, err = parseAddr(lo, r.family); err != nil {
		return err
	}
	r.hi = r.lo
	if ranged {
		if r.hi, err = parseAddr(hi, r.family); err != nil {
			return err
		}
	}
	if addrLess(r.hi, r.lo) {
		return errors.New("the range is backwards")
	}
	return nil
}

func (r *addrRange) text() string { return addrText(r.lo, r.family) + "-" + addrText(r.hi, r.family) }

func addrLess(a, b flow.Addr) bool { return a.Hi < b.Hi || a.Hi == b.Hi && a.Lo < b.Lo }

func (r *addrRange) has(a flow.Addr) bool {
	return (!addrLess(a, r.lo) && !addrLess(r.hi, a)) != r.not
}
