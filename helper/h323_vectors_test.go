package helper

import (
	"encoding/binary"
	"net/netip"
)

// perEnc writes what per reads, each message by hand: it knows nothing of the types.
type perEnc struct {
	b []byte
	n int // bits
}

func (e *perEnc) bits(n int, v uint64) *perEnc {
	for i := n - 1; i >= 0; i-- {
		if e.n%8 == 0 {
			e.b = append(e.b, 0)
		}
		e.b[e.n/8] |= byte(v>>i&1) << (7 - e.n%8)
		e.n++
	}
	return e
}

func (e *perEnc) align() *perEnc { return e.bits(-e.n&7, 0) }

func (e *perEnc) octets(b ...byte) *perEnc {
	e.align()
	for _, c := range b {
		e.bits(8, uint64(c))
	}
	return e
}

func (e *perEnc) word(v int) *perEnc { return e.octets(byte(v>>8), byte(v)) }

// holds writes an open type, or a string of octets.
func (e *perEnc) holds(b []byte) *perEnc {
	if len(b) > 127 {
		return e.word(0x8000 | len(b)).octets(b...)
	}
	return e.octets(byte(len(b))).octets(b...)
}

// more writes what is behind "...": nil for what is not there.
func (e *perEnc) more(open ...[]byte) *perEnc {
	e.bits(7, uint64(len(open)-1))
	for _, o := range open {
		e.bits(1, map[bool]uint64{true: 1}[o != nil])
	}
	for _, o := range open {
		if o != nil {
			e.holds(o)
		}
	}
	return e
}

func (e *perEnc) oid() *perEnc { return e.holds([]byte{0, 8, 0x91, 0x4a, 0, 4}) }

func (e *perEnc) guid() *perEnc { return e.octets([]byte("0123456789abcdef")...) }

// address is a TransportAddress of H.225.0.
func (e *perEnc) address(s string) *perEnc {
	a := netip.MustParseAddrPort(s)
	if a.Addr().Is4() {
		e.bits(4, 0)
	} else {
		e.bits(5, 3<<1)
	}
	return e.octets(a.Addr().AsSlice()...).word(int(a.Port()))
}

// media is one of H.245.
func (e *perEnc) media(s string) *perEnc {
	a := netip.MustParseAddrPort(s)
	e.bits(2, 0) // unicast
	if a.Addr().Is4() {
		e.bits(5, 0)
	} else {
		e.bits(5, 2<<1)
	}
	return e.octets(a.Addr().AsSlice()...).word(int(a.Port()))
}

// alias writes an h323-ID.
func (e *perEnc) alias(s string) *perEnc {
	return e.bits(2, 1).octets(byte(len(s) - 1)).wide(s)
}

func (e *perEnc) wide(s string) *perEnc {
	for i := range len(s) {
		e.word(int(s[i]))
	}
	return e
}

// digits writes dialedDigits, whose characters have four bits each: "#*,0123456789".
func (e *perEnc) digits(s string) *perEnc {
	e.bits(2, 0).bits(7, uint64(len(s)-1)).align()
	for i := range len(s) {
		e.bits(4, uint64(s[i]-'0'+3))
	}
	return e
}

// name is an endpoint's or a gatekeeper's.
func (e *perEnc) name(s string) *perEnc { return e.bits(7, uint64(len(s)-1)).align().wide(s) }

// terminal is an EndpointType with a vendor, an MCU and a gateway for voice.
func (e *perEnc) terminal() *perEnc {
	e.bits(1, 0).bits(6, 0b010111)
	e.bits(1, 0).bits(2, 2).bits(1, 0).octets(9, 0).word(61) // vendor, product
	e.octets(4 - 1).octets([]byte("test")...)
	e.bits(1, 0).bits(2, 2).octets(1).bits(1, 0).bits(4, 7).bits(2, 0) // gateway: one protocol, voice
	e.bits(2, 0)                                                       // mcu
	e.bits(2, 0)                                                       // terminal
	return e.bits(2, 0)
}

// userUser is a message of H.225.0 in Q.931 in a TPKT. The element is behind others of each
// kind, and the body begins at its second octet: alignment is that of the whole.
func userUser(index uint64, body *perEnc, control ...[]byte) string {
	e := new(perEnc)
	e.bits(2, 0)
	extended := uint64(0)
	if control != nil {
		extended = 1
	}
	e.bits(1, extended).bits(1, 0)
	if index < 7 {
		e.bits(1, 0).bits(3, index)
		for i := range body.n { // inline: bits go on where they are
			e.bits(1, uint64(body.b[i/8]>>(7-i%8)&1))
		}
	} else {
		e.bits(1, 1).bits(7, index-7).holds(body.b)
	}
	if control != nil {
		c := new(perEnc).octets(byte(len(control)))
		for _, m := range control {
			c.holds(m)
		}
		e.more(nil, []byte{0x80}, c.b) // h245Tunneling
	}
	d := []byte{8, 2, 0x12, 0x34, 5, 0x04, 3, 0x88, 0x93, 0xa5, 0x28, 1, 'x', q931UserUser}
	d = binary.BigEndian.AppendUint16(d, uint16(len(e.b)+1))
	return tpkt(append(append(d, 5), e.b...))
}

func tpkt(d []byte) string {
	return string(binary.BigEndian.AppendUint16([]byte{3, 0}, uint16(len(d)+4))) + string(d)
}

// setup has an address of H.245, of the called and the calling side, and channels for fast
// connect; "" and nil are left out.
func setup(h245, dest, src string, fast ...[]byte) *perEnc {
	flag := func(s string) uint64 { return map[bool]uint64{true: 1}[s != ""] }
	e := new(perEnc)
	e.bits(1, max(flag(src), min(1, uint64(len(fast)))))
	e.bits(1, flag(h245)).bits(2, 3).bits(1, flag(dest)).bits(2, 1).bits(1, 1)
	e.oid()
	if h245 != "" {
		e.address(h245)
	}
	e.octets(2).alias("alice").digits("12345")
	e.terminal()
	e.octets(1).digits("67")
	if dest != "" {
		e.address(dest)
	}
	e.octets(2).word(7).word(8) // destExtraCRV
	e.bits(1, 0).guid().bits(3, 0)
	e.bits(1, 0).bits(7, 0).bits(1, 0).bits(2, 0) // callServices
	e.bits(3, 0)
	if src == "" && fast == nil {
		return e
	}
	var a, f []byte
	if src != "" {
		a = new(perEnc).address(src).b
	}
	if fast != nil {
		f = sequenceOf(fast...)
	}
	return e.more(a, nil, new(perEnc).bits(1, 0).guid().b, nil, nil, nil, f)
}

func sequenceOf(items ...[]byte) []byte {
	e := new(perEnc).octets(byte(len(items)))
	for _, i := range items {
		e.holds(i)
	}
	return e.b
}

// connect, and proceeding and alerting
func connect(h245 string) *perEnc {
	return new(perEnc).bits(1, 0).bits(1, 1).oid().address(h245).terminal().guid()
}

func alerting(h245 string, fast ...[]byte) *perEnc {
	e := new(perEnc).bits(1, 1).bits(1, 1).oid().terminal().address(h245)
	var f []byte
	if fast != nil {
		f = sequenceOf(fast...)
	}
	return e.more(new(perEnc).bits(1, 0).guid().b, nil, nil, nil, f)
}

// facility has an alternativeAddress, a reason and an address of H.245.
func facility(alternative string, reason uint64, h245 string) *perEnc {
	e := new(perEnc).bits(1, 1).bits(3, 6).oid().address(alternative).octets(1).alias("carol")
	if reason < 4 {
		e.bits(1, 0).bits(2, reason)
	} else {
		e.bits(1, 1).bits(7, reason-4).holds([]byte{0})
	}
	return e.more(new(perEnc).bits(1, 0).guid().b, nil, nil, nil, nil, nil, new(perEnc).address(h245).b)
}

func progress(h245 string) *perEnc {
	return new(perEnc).bits(1, 0).bits(5, 0b10000).oid().terminal().address(h245).bits(1, 0).guid()
}

// h2250 is H2250LogicalChannelParameters.
func h2250(media, control string) []byte {
	e := new(perEnc).bits(1, 0)
	flag := func(s string) uint64 { return map[bool]uint64{true: 1}[s != ""] }
	e.bits(1, 1).bits(1, 1).bits(1, flag(media)).bits(1, 1).bits(1, flag(control)).bits(5, 0b01000)
	e.octets(1).bits(1, 1).octets(9, 0).word(61).holds([]byte("xyz")) // nonStandard
	e.octets(1).bits(8, 1)
	if media != "" {
		e.media(media)
	}
	e.bits(1, 0)
	if control != "" {
		e.media(control)
	}
	return e.bits(1, 1).b
}

// open is OpenLogicalChannel for sound one way, pictures the other.
func open(media, control, reverse string) []byte {
	flag := map[bool]uint64{true: 1}[reverse != ""]
	e := new(perEnc).bits(1, 0).bits(1, flag).word(257 - 1)
	e.bits(1, 0).bits(1, 1).word(4)               // portNumber
	e.bits(1, 0).bits(3, 3).bits(1, 0).bits(4, 3) // audioData, g711Ulaw64k
	e.octets(20-1).bits(1, 1).bits(7, 0).holds(h2250(media, control))
	if reverse != "" {
		e.bits(1, 0).bits(1, 1)
		e.bits(1, 0).bits(3, 2).bits(1, 0).bits(3, 3) // videoData, h263
		e.bits(1, 0).bits(7, 0b0110010)
		e.bits(5, 2-1).bits(5, 1).bits(2, 1).octets(0x40, 0) // maxBitRate, 2 octets
		e.bits(5, 0).bits(2, 0).octets(9)                    // hrd-B, 1 octet
		e.bits(1, 1).bits(7, 0).holds(h2250("", reverse))
	}
	return e.b
}

// openData is one for T.120 over a connection of its own.
func openData(stack string, separate uint64) []byte {
	e := new(perEnc).bits(1, 1).bits(1, 0).word(5)
	e.bits(1, 0).bits(1, 0)
	e.bits(1, 0).bits(3, 4).bits(1, 0)              // data
	e.bits(1, 0).bits(4, 1)                         // t120
	e.bits(1, 1).bits(7, separate).holds([]byte{0}) // a protocol behind "..."
	e.bits(2, 1).octets(0x12, 0x34)                 // maxBitRate
	e.bits(1, 1).bits(7, 0).holds(h2250("", ""))    // h2250
	return e.more(separateStack(stack)).b
}

func separateStack(a string) []byte {
	return new(perEnc).bits(1, 0).bits(2, 2).bits(2, 0).bits(1, 0).bits(2, 2).media(a).bits(1, 1).b
}

// request is a message of H.245 that asks for a channel, response one that answers.
func request(open []byte) []byte {
	return append(new(perEnc).bits(3, 0).bits(1, 0).bits(4, 3).b, open...)
}

// response has OpenLogicalChannelAck with the address of the control channel of the other
// direction, of the data, and of the media of this one.
func response(reverse, stack, media, control string) []byte {
	flag := map[bool]uint64{true: 1}[reverse != ""]
	e := new(perEnc).bits(3, 1).bits(1, 0).bits(5, 5)
	e.bits(1, 1).bits(1, flag).word(256)
	if reverse != "" {
		e.bits(1, 0).bits(2, 1).word(8).bits(1, 1).bits(7, 0).holds(h2250("", reverse))
	}
	m := new(perEnc).bits(1, 0) // forwardMultiplexAckParameters
	m.bits(1, 0).bits(5, 0b01111).bits(8, 0).media(media).media(control).bits(5, 3)
	var s []byte
	if stack != "" {
		s = separateStack(stack)
	}
	return e.more(s, m.b).b
}

// ras begins a message of RAS; those of more behind "..." have the bit.
func rasEnc(index, more uint64) *perEnc { return new(perEnc).bits(1, 0).bits(5, index).bits(1, more) }

func (e *perEnc) addresses(all ...string) *perEnc {
	e.octets(byte(len(all)))
	for _, a := range all {
		e.address(a)
	}
	return e
}

func gatekeeperRequest(ras string) string {
	e := rasEnc(rasGatekeeperRequest, 0).bits(4, 4).word(6).oid().address(ras)
	return string(e.terminal().name("gk").b)
}

func gatekeeperConfirm(ras string) string {
	return string(rasEnc(rasGatekeeperConfirm, 0).bits(2, 1).word(6).oid().name("gk").address(ras).b)
}

func registrationRequest(signals, ras []string, ttl int) string {
	more := map[bool]uint64{true: 1}[ttl > 0]
	e := rasEnc(rasRegistrationRequest, more).bits(3, 3).word(7).oid().bits(1, 1)
	e.addresses(signals...).addresses(ras...).terminal().octets(1).alias("alice").name("gk")
	e.bits(1, 0).bits(2, 0).bits(1, 0).octets(9, 0).word(61)
	if ttl > 0 {
		e.more(nil, lifetime(ttl), nil, nil, nil, []byte{0}) // and keepAlive
	}
	return string(e.b)
}

func lifetime(ttl int) []byte { return new(perEnc).bits(2, 1).word(ttl - 1).b }

func registrationConfirm(signals []string, ttl int) string {
	more := map[bool]uint64{true: 1}[ttl > 0]
	e := rasEnc(rasRegistrationConfirm, more).bits(3, 1).word(7).oid()
	e.addresses(signals...).name("gk").name("ep1")
	if ttl > 0 {
		e.more(nil, lifetime(ttl), nil, nil, nil, []byte{0}) // and willRespondToIRR
	}
	return string(e.b)
}

func unregistrationRequest(signals ...string) string {
	return string(rasEnc(rasUnregistrationRequest, 0).bits(3, 1).word(8).addresses(signals...).name("ep1").b)
}

func admissionRequest(dest, src string) string {
	flag := func(s string) uint64 { return map[bool]uint64{true: 1}[s != ""] }
	e := rasEnc(rasAdmissionRequest, 0).bits(1, 1).bits(1, 1).bits(1, flag(dest)).bits(1, 0).bits(1, flag(src)).bits(2, 0)
	e.word(9).bits(3, 0).bits(2, 0).name("ep1").octets(1).digits("67")
	if dest != "" {
		e.address(dest)
	}
	e.octets(1).alias("alice")
	if src != "" {
		e.address(src)
	}
	e.bits(2, 1).word(640).word(17).guid() // bandWidth, callReferenceValue, conferenceID
	e.bits(3, 0).bits(1, 0)
	return string(e.b)
}

func admissionConfirm(dest string) string {
	return string(rasEnc(rasAdmissionConfirm, 0).bits(2, 0).word(9).bits(2, 1).word(640).bits(2, 0).address(dest).b)
}

func locationRequest(reply string) string {
	return string(rasEnc(rasLocationRequest, 0).bits(2, 2).word(10).name("ep1").octets(1).digits("67").address(reply).b)
}

func locationConfirm(signal, ras string) string {
	return string(rasEnc(rasLocationConfirm, 0).bits(1, 0).word(10).address(signal).address(ras).b)
}

func infoResponse(ras string, signals ...string) string {
	e := rasEnc(rasInfoResponse, 0).bits(3, 0).word(11).terminal().name("ep1").address(ras).addresses(signals...)
	return string(e.b)
}
