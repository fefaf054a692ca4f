package syntax

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
	mask = PrefixMask(familyBits(f), f)
	if has {
		if n, e := strconv.Atoi(m); e == nil {
			if n < 0 || n > familyBits(f) {
				return addr, mask, fmt.Errorf("the prefix length must be 0..%d", familyBits(f))
			}
			mask = PrefixMask(n, f)
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

// PrefixMask returns the mask of n bits of an address of family f; those before an
// IPv4 address in its mapped form are all ones.
func PrefixMask(n int, f flow.Family) flow.Addr {
	n += 128 - familyBits(f)
	if n <= 64 {
		return flow.Addr{Hi: ^(^uint64(0) >> n)}
	}
	return flow.Addr{Hi: ^uint64(0), Lo: ^(^uint64(0) >> (n - 64))}
}

// PrefixLen is the inverse of PrefixMask; ok is false if the mask has holes.
func PrefixLen(m flow.Addr, f flow.Family) (n int, ok bool) {
	n = bits.LeadingZeros64(^m.Hi)
	if n == 64 {
		n += bits.LeadingZeros64(^m.Lo)
	}
	n -= 128 - familyBits(f)
	return n, n >= 0 && PrefixMask(n, f) == m
}

func addrText(a flow.Addr, f flow.Family) string { return a.Netip(f).String() }

func addrMaskText(a, m flow.Addr, f flow.Family) string {
	if n, ok := PrefixLen(m, f); ok {
		return fmt.Sprintf("%s/%d", addrText(a, f), n)
	}
	return addrText(a, f) + "/" + addrText(m, f)
}

// AddrRange is "first-last", both ends included.
type AddrRange struct {
	Given
	Family flow.Family
	Lo, Hi flow.Addr
}

func (r *AddrRange) read(args []string) (err error) {
	lo, hi, ranged := strings.Cut(args[0], "-")
	if r.Lo, err = parseAddr(lo, r.Family); err != nil {
		return err
	}
	r.Hi = r.Lo
	if ranged {
		if r.Hi, err = parseAddr(hi, r.Family); err != nil {
			return err
		}
	}
	if r.Hi.Less(r.Lo) {
		return errors.New("the range is backwards")
	}
	return nil
}

func (r *AddrRange) text() string { return addrText(r.Lo, r.Family) + "-" + addrText(r.Hi, r.Family) }

// Has reports whether a is in the range, or not in it if that is asked.
func (r *AddrRange) Has(a flow.Addr) bool {
	return (!a.Less(r.Lo) && !r.Hi.Less(a)) != r.Not
}
