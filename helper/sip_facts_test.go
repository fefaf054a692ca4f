package helper

import (
	"slices"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/flow"
)

// sipFact is a dialogue, and what Linux (6.18) makes of it: TestSIP holds the helper to it and
// TestSIPKernel the running kernel.
type sipFact struct {
	name  string
	proto flow.Proto // 0: UDP
	inner bool       // it is the server that is translated
	steps []sipStep
}

// sipStep is a message of a dialogue.
type sipStep struct {
	dir     flow.Direction
	text    string
	changed string // the lines that are others behind the translation
	expect  string // what is expected then: class, a or b whom it belongs to, port; flags

	// linux says how Linux differs, nil if it does not.
	linux *sipOther
}

type sipOther struct {
	why     string
	changed string // "dropped" where it is
	always  bool   // dropped without translation, too
	expect  string // "-" where it is the same
}

func (f *sipFact) nets() (all []sipNet) {
	proto := f.proto
	if proto == 0 {
		proto = flow.UDP
	}
	for _, family := range []flow.Family{flow.IPv4, flow.IPv6} {
		all = append(all, sipNet{family, proto, false, f.inner}, sipNet{family, proto, true, f.inner})
	}
	return all
}

// expandRows writes what is expected in full: "audio a:4000" is the client's, "b:" the
// server's, each from the other.
func expandRows(text string, n sipNet) string {
	var rows []string
	for _, line := range strings.Split(text, ", ") {
		class, rest, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		to, from := "x", "b"
		if rest[0] == 'b' {
			to, from = "y", "a"
		}
		port, flags, _ := strings.Cut(rest[2:], " ")
		if port == "p" {
			port = strconv.Itoa(int(n.seenPort()))
		}
		rows = append(rows, strings.TrimSpace(class+" "+from+">"+to+":"+port+" "+flags))
	}
	slices.Sort(rows)
	return strings.Join(rows, "\n")
}

const (
	// sipOffer begins an INVITE, up to the body.
	sipOffer = `INVITE sip:bob@<B> SIP/2.0
Via: SIP/2.0/UDP <A>:5060;branch=z9hG4bK1;rport
Route: <sip:<A>:5060;lr>
Record-Route: <sip:<A>:5060;lr>
From: "Alice" <sip:alice@<A>>;tag=1
To: <sip:bob@<B>:5060>
Call-ID: 1@<A>
CSeq: 1 INVITE
Contact: <sip:alice@<A>:5060;transport=UDP>
Content-Type: application/sdp
Content-Length: LEN

`
	// sipOffered is what changes of that.
	sipOffered = `Via: SIP/2.0/UDP <X>:<p>;branch=z9hG4bK1;rport
From: "Alice" <sip:alice@<X>:<p>>;tag=1
Contact: <sip:alice@<X>:<p>;transport=UDP>
`
	sipDescription = "v=0\no=- 1 1 IN IP4 <a>\ns=-\nc=IN IP4 <a>\nt=0 0\n"
	sipDescribed   = "o=- 1 1 IN IP4 <x>\nc=IN IP4 <x>"
	sipLength      = "Content-Length: LEN\n"
	// sipAnswer is how the server begins its responses; those end in sipAnswered.
	sipAnswer = `Via: SIP/2.0/UDP <X>:<p>;branch=z9hG4bK1;received=<x>;rport=<p>
From: <sip:alice@<X>:<p>>;tag=1
To: <sip:bob@<B>:5060>;tag=2
Call-ID: 1@<A>
CSeq: 1 INVITE
Contact: <sip:bob@<B>:5060>
Content-Length: LEN

`
	sipAnswered = `Via: SIP/2.0/UDP <A>:5060;branch=z9hG4bK1;received=<a>;rport=5060
From: <sip:alice@<A>:5060>;tag=1`
	sipRegister = `REGISTER sip:<B> SIP/2.0
Via: SIP/2.0/UDP <A>:5060;branch=z9hG4bK1
From: <sip:alice@example.org>;tag=1
To: <sip:alice@example.org>
Call-ID: 2
CSeq: 7 REGISTER
Contact: <sip:alice@<A>:5060>
Expires: 1800
Content-Length: 0

`
	sipRegistering = `Via: SIP/2.0/UDP <X>:<p>;branch=z9hG4bK1
Contact: <sip:alice@<X>:<p>>`
	sipRegistered = `SIP/2.0 200 OK
Via: SIP/2.0/UDP <X>:<p>;branch=z9hG4bK1
From: <sip:alice@example.org>;tag=1
To: <sip:alice@example.org>
Call-ID: 2
CSeq: 7 REGISTER
Contact: <sip:alice@<X>:<p>>;expires=120
Content-Length: 0

`
	sipRegisteredToo = `Via: SIP/2.0/UDP <A>:5060;branch=z9hG4bK1
Contact: <sip:alice@<A>:5060>;expires=120`
)

// sipFacts were found by asking Linux 6.18 with its parameters as they are without being set
// (sip_direct_media=1, sip_direct_signalling=1, sip_external_media=0).
var sipFacts = []sipFact{
	{name: "audio", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\na=rtcp:4001\n",
		changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
	}}},
	{name: "an odd port", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 4001 RTP/AVP 0\n",
		changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
	}}},
	{name: "RTCP elsewhere", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\na=rtcp:4011 IN IP4 <a>\n",
		changed: sipOffered + sipLength + sipDescribed + "\na=rtcp:4011 IN IP4 <x>", expect: "audio a:4000, audio a:4011",
		linux: &sipOther{
			why:     "it does not read a=rtcp (RFC 3605)",
			changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
		},
	}}},
	{name: "a display name like a URI", steps: []sipStep{{
		text:    strings.Replace(sipOffer, "Alice", "sip:x@<A>", 1) + "v=0\n",
		changed: strings.TrimSpace(strings.Replace(sipOffered, "Alice", "sip:x@<A>", 1)),
		linux: &sipOther{
			why:     "it finds the first sip: of a line, quoted or not",
			changed: strings.NewReplacer("Alice", "sip:x@<X>:<p>", "alice@<X>:<p>>", "alice@<A>>").Replace(strings.TrimSpace(sipOffered)), expect: "-",
		},
	}}},
	{name: "three media of four", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\nm=application 9 TCP/X\nm=video 4002/2 RTP/AVP 0\nm=image 4004 udptl t38\nm=audio 4006 RTP/AVP 0\n",
		changed: sipOffered + sipLength + sipDescribed,
		expect:  "audio a:4000, audio a:4001, video a:4002, video a:4003, image a:4004, image a:4005",
	}}},
	{name: "the oldest of a class goes", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\nm=audio 4002 RTP/AVP 0\nm=audio 4004 RTP/AVP 0\n",
		changed: sipOffered + sipLength + sipDescribed,
		expect:  "audio a:4002, audio a:4003, audio a:4004, audio a:4005",
	}}},
	{name: "c= of a medium", steps: []sipStep{{
		text:    sipOffer + "v=0\no=- 1 1 IN IP4 <a>\ns=-\nt=0 0\nm=audio 4000 RTP/AVP 0\nc=IN IP4 <a>\nm=video 4002 RTP/AVP 0\nc=IN IP4 <a>\n",
		changed: sipOffered + sipLength + "o=- 1 1 IN IP4 <x>\nc=IN IP4 <x>\nc=IN IP4 <x>",
		expect:  "audio a:4000, audio a:4001, video a:4002, video a:4003",
	}}},
	{name: "c= of the session and of a medium", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\nc=IN IP4 <a>\nm=video 4002 RTP/AVP 0\n",
		changed: sipOffered + sipLength + sipDescribed + "\nc=IN IP4 <x>",
		expect:  "audio a:4000, audio a:4001, video a:4002, video a:4003",
	}}},
	{name: "o= is another address", steps: []sipStep{{
		text:    sipOffer + strings.Replace(sipDescription, "o=- 1 1 IN IP4 <a>", "o=- 1 1 IN IP4 <c>", 1) + "m=audio 4000 RTP/AVP 0\n",
		changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
	}}},
	{name: "o= is a name", steps: []sipStep{{
		text:    sipOffer + strings.Replace(sipDescription, "o=- 1 1 IN IP4 <a>", "o=- 1 1 IN IP4 phone.example", 1) + "m=audio 4000 RTP/AVP 0\n",
		changed: sipOffered + sipLength + "c=IN IP4 <x>", expect: "audio a:4000, audio a:4001",
		linux: &sipOther{why: "it drops what it cannot rewrite", changed: "dropped", expect: "-"},
	}}},
	{name: "no o=", steps: []sipStep{{
		text:    sipOffer + strings.Replace(sipDescription, "o=- 1 1 IN IP4 <a>\n", "", 1) + "m=audio 4000 RTP/AVP 0\n",
		changed: sipOffered + sipLength + "c=IN IP4 <x>", expect: "audio a:4000, audio a:4001",
		linux: &sipOther{why: "it drops what it cannot rewrite", changed: "dropped", expect: "-"},
	}}},
	{name: "no Content-Length", steps: []sipStep{{
		text:    strings.Replace(sipOffer, sipLength, "", 1) + sipDescription + "m=audio 4000 RTP/AVP 0\n",
		changed: sipOffered + sipDescribed, expect: "audio a:4000, audio a:4001",
		linux: &sipOther{why: "it drops what it cannot rewrite (RFC 3261 18.3: a datagram needs none)", changed: "dropped", expect: "-"},
	}}},
	{name: "no media", steps: []sipStep{{text: sipOffer + sipDescription, changed: strings.TrimSpace(sipOffered)}}},
	{name: "media refused", steps: []sipStep{{ // CVE-2026-31427: no address is known
		text: sipOffer + sipDescription + "m=audio 0 RTP/AVP 0\n", changed: strings.TrimSpace(sipOffered),
	}}},
	{name: "one medium refused", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 0 RTP/AVP 0\nm=video 4002 RTP/AVP 0\n",
		changed: sipOffered + sipLength + sipDescribed, expect: "video a:4002, video a:4003",
	}}},
	{name: "another's media", steps: []sipStep{{ // sip_direct_media
		text:    sipOffer + strings.Replace(sipDescription, "c=IN IP4 <a>", "c=IN IP4 <c>", 1) + "m=audio 4000 RTP/AVP 0\n",
		changed: sipOffered + sipLength + "o=- 1 1 IN IP4 <x>",
		linux:   &sipOther{why: "it makes c= of o=, and tells an inner address", changed: strings.TrimSpace(sipOffered) + "\no=- 1 1 IN IP4 <c>", expect: "-"},
	}}},
	{name: "media of two", steps: []sipStep{{
		text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\nm=video 4002 RTP/AVP 0\nc=IN IP4 <c>\n",
		changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
		linux: &sipOther{why: "the last medium's address becomes the session's", changed: strings.TrimSpace(sipOffered) + "\no=- 1 1 IN IP4 <c>\nc=IN IP4 <c>", expect: "-"},
	}}},
	{name: "a low port", steps: []sipStep{{
		text:  sipOffer + sipDescription + "m=audio 80 RTP/AVP 0\n",
		linux: &sipOther{why: "it drops the message", changed: "dropped", always: true, expect: "-"},
	}}},
	{name: "no c=", steps: []sipStep{{
		text:  sipOffer + strings.Replace(sipDescription, "c=IN IP4 <a>\n", "", 1) + "m=audio 4000 RTP/AVP 0\n",
		linux: &sipOther{why: "it drops the message", changed: "dropped", always: true, expect: "-"},
	}}},
	{name: "hold", steps: []sipStep{
		{
			text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n",
			changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
		}, {
			text:    sipOffer + strings.Replace(sipDescription, "c=IN IP4 <a>", "c=IN IP4 0.0.0.0", 1) + "m=audio 4000 RTP/AVP 0\n",
			changed: sipOffered + sipLength + "o=- 1 1 IN IP4 <x>",
			linux:   &sipOther{why: "it makes c= of o=, which RFC 3264 (8) wants unchanged", changed: sipOffered + sipLength + "o=- 1 1 IN IP4 0.0.0.0", expect: "-"},
		}, { // RTCP goes on (RFC 3264, 5.1)
			text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\na=inactive\n",
			changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
		},
	}},
	{name: "compact", steps: []sipStep{{
		text: "INVITE sip:bob@<B>:5060 SIP/2.0\nv: SIP/2.0/UDP <A>:5060;branch=z9hG4bK1;maddr=<A>\nf: <sip:alice@<A>:5060>;tag=1\nt: <sip:bob@<B>>\ni: x\nCSeq: 1 INVITE\n" +
			"m: sip:alice@<A>:5060,\n <sip:alice@<A>>;q=1\nc: application/sdp\nl: LEN\n\n" + sipDescription + "m=audio 4000 RTP/AVP 0\n",
		changed: "v: SIP/2.0/UDP <X>:<p>;branch=z9hG4bK1;maddr=<X>\nf: <sip:alice@<X>:<p>>;tag=1\nm: sip:alice@<X>:<p>,\n <sip:alice@<X>:<p>>;q=1\nl: LEN\n" + sipDescribed,
		expect:  "audio a:4000, audio a:4001",
	}}},
	{name: "folded", steps: []sipStep{{
		text: "INVITE sip:bob@<B> SIP/2.0\nVia:\n SIP/2.0/UDP <A>:5060;branch=z9hG4bK1\nFrom:\n\t<sip:alice@<A>:5060>;tag=1\nTo: <sip:bob@<B>>\nCall-ID: x\nCSeq: 1 INVITE\n" +
			"Contact\n  : <sip:alice@<A>:5060>\nContent-Type: application/sdp\nContent-Length:\n LEN\n\n" + sipDescription + "m=audio 4000 RTP/AVP 0\n",
		changed: " SIP/2.0/UDP <X>:<p>;branch=z9hG4bK1\n\t<sip:alice@<X>:<p>>;tag=1\n  : <sip:alice@<X>:<p>>\n LEN\n" + sipDescribed,
		expect:  "audio a:4000, audio a:4001",
	}}},
	{name: "a contact at another port", steps: []sipStep{{
		text:    strings.Replace(sipOffer, "Contact: <sip:alice@<A>:5060", "Contact: <sip:alice@<A>:5070", 1) + sipDescription + "m=audio 4000 RTP/AVP 0\n",
		changed: strings.Split(sipOffered, "Contact")[0] + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
	}}},
	{name: "a call", steps: []sipStep{
		{
			text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n",
			changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
		},
		{dir: flow.Reply, text: "SIP/2.0 100 Trying\n" + sipAnswer, changed: sipAnswered, expect: "audio a:4000, audio a:4001"},
		{
			dir: flow.Reply, text: "SIP/2.0 183 Session Progress\n" + sipAnswer + "v=0\no=- 2 2 IN IP4 <b>\nc=IN IP4 <b>\nm=audio 6000 RTP/AVP 0\n",
			changed: sipAnswered, expect: "audio a:4000, audio a:4001, audio b:6000, audio b:6001",
		},
		{
			dir: flow.Reply, text: "SIP/2.0 200 OK\n" + sipAnswer + "v=0\no=- 2 2 IN IP4 <b>\nc=IN IP4 <b>\nm=audio 6000 RTP/AVP 0\n",
			changed: sipAnswered, expect: "audio a:4000, audio a:4001, audio b:6000, audio b:6001",
		},
		{
			dir:     flow.Reply,
			text:    "BYE sip:alice@<X>:<p> SIP/2.0\nVia: SIP/2.0/UDP <B>:5060\nFrom: <sip:bob@<B>>\nTo: <sip:alice@<X>:<p>>\nCall-ID: 1@<A>\nCSeq: 9 BYE\nContent-Length: 0\n\n",
			changed: "BYE sip:alice@<A>:5060 SIP/2.0\nTo: <sip:alice@<A>:5060>",
		},
	}},
	{name: "a call that is refused", steps: []sipStep{
		{
			text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n",
			changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
		},
		{
			dir: flow.Reply, text: "SIP/2.0 486 Busy Here\n" + strings.Replace(sipAnswer, "CSeq: 1", "CSeq: 2", 1),
			changed: sipAnswered, expect: "audio a:4000, audio a:4001",
		},
		{dir: flow.Reply, text: "SIP/2.0 486 Busy Here\n" + sipAnswer, changed: sipAnswered},
	}},
	{name: "a call that is cancelled", steps: []sipStep{
		{
			text:    sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n",
			changed: sipOffered + sipLength + sipDescribed, expect: "audio a:4000, audio a:4001",
		},
		{
			text:    "CANCEL sip:bob@<B> SIP/2.0\nVia: SIP/2.0/UDP <A>:5060;branch=z9hG4bK1\nCall-ID: 1@<A>\nCSeq: 1 CANCEL\nContent-Length: 0\n\n",
			changed: "Via: SIP/2.0/UDP <X>:<p>;branch=z9hG4bK1",
			linux:   &sipOther{why: "it waits for the 487", expect: "audio a:4000, audio a:4001"},
		},
	}},
	{name: "registration", steps: []sipStep{
		{text: sipRegister, changed: sipRegistering, expect: "signalling a:p permanent inactive"},
		{dir: flow.Reply, text: sipRegistered, changed: sipRegisteredToo, expect: "signalling a:p permanent"},
		{text: strings.Replace(sipRegister, "CSeq: 7", "CSeq: 8", 1), changed: sipRegistering, expect: "signalling a:p permanent inactive"},
		{dir: flow.Reply, text: strings.Replace(sipRegistered, "CSeq: 7", "CSeq: 8", 1), changed: sipRegisteredToo, expect: "signalling a:p permanent"},
		{text: strings.NewReplacer("CSeq: 7", "CSeq: 9", "1800", "0").Replace(sipRegister), changed: sipRegistering, expect: "signalling a:p permanent"},
		{
			dir: flow.Reply, text: strings.NewReplacer("CSeq: 7", "CSeq: 9", "expires=120", "expires=0").Replace(sipRegistered),
			changed: strings.Replace(sipRegisteredToo, "120", "0", 1),
		},
	}},
	{name: "registration at another port", steps: []sipStep{
		{
			text:    strings.Replace(sipRegister, "<A>:5060>", "<A>:5070>;expires=60", 1),
			changed: strings.NewReplacer("<X>:<p>>", "<X>:5070>;expires=60").Replace(sipRegistering), expect: "signalling a:5070 permanent inactive",
		},
		{
			dir: flow.Reply, text: strings.Replace(sipRegistered, "<X>:<p>>", "<X>:5070>", 1),
			changed: strings.Split(sipRegisteredToo, "\n")[0], expect: "signalling a:5070 permanent",
		},
	}},
	{name: "registration refused", steps: []sipStep{
		{text: sipRegister, changed: sipRegistering, expect: "signalling a:p permanent inactive"},
		{dir: flow.Reply, text: strings.Replace(sipRegistered, "200 OK", "100 Trying", 1), changed: sipRegisteredToo, expect: "signalling a:p permanent inactive"},
		{dir: flow.Reply, text: strings.NewReplacer("200 OK", "403 No", "CSeq: 7", "CSeq: 6").Replace(sipRegistered), changed: sipRegisteredToo, expect: "signalling a:p permanent inactive"},
		{dir: flow.Reply, text: strings.Replace(sipRegistered, "200 OK", "401 Unauthorized", 1), changed: sipRegisteredToo},
	}},
	{name: "registration without a lifetime", steps: []sipStep{
		{text: strings.Replace(sipRegister, "Expires: 1800\n", "", 1), changed: sipRegistering},
	}},
	{name: "registration of another", steps: []sipStep{
		{text: strings.Replace(sipRegister, "alice@<A>", "alice@<C>", 1), changed: strings.Split(sipRegistering, "\n")[0]},
	}},
	{name: "registration for another transport", steps: []sipStep{
		{text: strings.Replace(sipRegister, "<A>:5060>", "<A>:5060;transport=sctp>", 1), changed: strings.Replace(sipRegistering, "<p>>", "<p>;transport=sctp>", 1)},
	}},
	{name: "folded inside a Via", steps: []sipStep{{
		text:    strings.Replace(sipOffer, "SIP/2.0/UDP <A>", "SIP/2.0/UDP\n <A>", 1) + "v=0\n",
		changed: strings.Replace(strings.TrimSpace(sipOffered), "Via: SIP/2.0/UDP", "", 1),
		linux:   &sipOther{why: "it looks for a space behind UDP", changed: strings.TrimSpace(strings.SplitN(sipOffered, "\n", 2)[1]), expect: "-"},
	}}},
	{name: "registration confirmed by its client", steps: []sipStep{
		{text: sipRegister, changed: sipRegistering, expect: "signalling a:p permanent inactive"},
		{
			text:    strings.NewReplacer("<X>:<p>", "<A>:5060").Replace(sipRegistered),
			changed: "Contact: <sip:alice@<X>:<p>>;expires=120", expect: "signalling a:p permanent inactive",
			linux: &sipOther{why: "it takes responses of either side, and forgets what this one does not list"},
		},
	}},
	{name: "a server that is translated", inner: true, steps: []sipStep{
		{
			text:    strings.Replace(strings.Replace(sipOffer, "sip:bob@<B> ", "sip:bob@<Y>:<q> ", 1), "<B>:5060", "<Y>:<q>", 1) + sipDescription + "m=audio 4000 RTP/AVP 0\n",
			changed: "INVITE sip:bob@<B>:5060 SIP/2.0\nTo: <sip:bob@<B>:5060>", expect: "audio a:4000, audio a:4001",
		},
		{
			dir:     flow.Reply,
			text:    "SIP/2.0 200 OK\n" + sipAnswer + "v=0\no=- 2 2 IN IP4 <b>\nc=IN IP4 <b>\nm=audio 6000 RTP/AVP 0\n",
			changed: "To: <sip:bob@<Y>:<q>>;tag=2\nContact: <sip:bob@<Y>:<q>>\n" + sipLength + "o=- 2 2 IN IP4 <y>\nc=IN IP4 <y>",
			expect:  "audio a:4000, audio a:4001, audio b:6000, audio b:6001",
		},
		{
			dir:     flow.Reply,
			text:    "BYE sip:alice@<A>:5060 SIP/2.0\nVia: SIP/2.0/UDP <B>:5060;branch=z9hG4bK3\nFrom: <sip:bob@<B>:5060>\nTo: <sip:alice@<A>:5060>\nCall-ID: 1@<A>\nCSeq: 9 BYE\nContent-Length: 0\n\n",
			changed: "Via: SIP/2.0/UDP <Y>:<q>;branch=z9hG4bK3\nFrom: <sip:bob@<Y>:<q>>",
		},
		{
			text:    "SIP/2.0 200 OK\nVia: SIP/2.0/UDP <Y>:<q>;branch=z9hG4bK3;received=<y>;rport=<q>\nFrom: <sip:bob@<Y>:<q>>\nTo: <sip:alice@<A>:5060>\nCall-ID: 1@<A>\nCSeq: 9 BYE\nContent-Length: 0\n\n",
			changed: "Via: SIP/2.0/UDP <B>:5060;branch=z9hG4bK3;received=<b>;rport=5060\nFrom: <sip:bob@<B>:5060>",
		},
	}},
	{name: "a Via at another port", steps: []sipStep{
		{
			text:    strings.Replace(sipOffer, "<A>:5060;branch", "<A>:5077;branch", 1) + "v=0\n",
			changed: strings.TrimSpace(strings.SplitN(sipOffered, "\n", 2)[1]),
			linux: &sipOther{
				why: "a phone may want its answers at another port than it sends from: from now on all packets from the server go to the port of the Via. " +
					"The server's own port becomes that, too, where it is named",
				changed: "INVITE sip:bob@<B>:5077 SIP/2.0\nFrom: \"Alice\" <sip:alice@<X>:<p>>;tag=1\nTo: <sip:bob@<B>:5077>\nContact: <sip:alice@<X>:<p>;transport=UDP>",
				expect:  "-",
			},
		},
		{
			dir: flow.Reply, text: "SIP/2.0 100 Trying\n" + sipAnswer, changed: sipAnswered,
			linux: &sipOther{
				why: "as above", expect: "-",
				changed: strings.NewReplacer("<A>:5060", "<A>:5077").Replace(sipAnswered),
			},
		},
	}},
	{name: "a stream", proto: flow.TCP, steps: []sipStep{
		{
			text: sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n", changed: sipOffered + sipLength + sipDescribed,
			expect: "audio a:4000, audio a:4001",
		},
		{dir: flow.Reply, text: "SIP/2.0 486 Busy Here\n" + sipAnswer, changed: sipAnswered},
		{text: sipRegister, changed: sipRegistering, expect: "signalling a:p permanent inactive"},
		{dir: flow.Reply, text: sipRegistered, changed: sipRegisteredToo, expect: "signalling a:p permanent"},
	}},
	{name: "two messages in a segment", proto: flow.TCP, steps: []sipStep{{
		text:    sipRegister + sipOffer + sipDescription + "m=audio 4000 RTP/AVP 0\n",
		changed: sipRegistering + "\n" + sipOffered + sipLength + sipDescribed,
		expect:  "audio a:4000, audio a:4001, signalling a:p permanent inactive",
	}}},
}
