package shard

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/xdpct/xdpct/internal/testenv"
)

// ipfVector is a case of IPFilter's regression tests.
type ipfVector struct {
	Test     string
	Input    []struct{ Dir, Hex, Ifc string }
	Expected [][]string
}

// ipfVectors returns the cases of these names.
func ipfVectors(t *testing.T, names ...string) map[string]*ipfVector {
	t.Helper()
	f, err := os.Open(testenv.Shared(t, "vectors/ipf_vectors.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]*ipfVector{}
	for s := bufio.NewScanner(bufio.NewReaderSize(f, 1<<20)); s.Scan(); {
		v := &ipfVector{}
		if err := json.Unmarshal(s.Bytes(), v); err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if n == v.Test {
				all[n] = v
			}
		}
	}
	if len(all) != len(names) {
		t.Fatalf("%d of %d cases are there", len(all), len(names))
	}
	return all
}

// onlyRelated lets nothing begin from outside or inside but what is expected.
func onlyRelated(begins string) string {
	return "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD " + begins + " -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n"
}

// resummed makes the checksums of an IPv4 datagram of TCP or UDP anew.
func resummed(d []byte) []byte {
	sum := func(b []byte, more uint32) uint16 {
		for i := 0; i+1 < len(b); i += 2 {
			more += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)&1 != 0 {
			more += uint32(b[len(b)-1]) << 8
		}
		for more > 0xffff {
			more = more>>16 + more&0xffff
		}
		return ^uint16(more)
	}
	d[10], d[11] = 0, 0
	binary.BigEndian.PutUint16(d[10:], sum(d[:20], 0))
	if d[9] == 6 {
		d[36], d[37] = 0, 0
		pseudo := uint32(6) + uint32(len(d)-20)
		for i := 12; i < 20; i += 2 {
			pseudo += uint32(d[i])<<8 | uint32(d[i+1])
		}
		binary.BigEndian.PutUint16(d[36:], sum(d[20:], pseudo))
	}
	return d
}

// TestIPFHelperVectors runs packets of IPFilter's regression tests of its proxies for rsh,
// PPTP and RPC through helpers and translation, at one, two and four shards: what leaves is
// what IPFilter lets out, byte for byte but for identification and header checksum, and the
// second connections pass only because they are expected.
func TestIPFHelperVectors(t *testing.T) {
	vectors := ipfVectors(t, "ni6", "ni13", "ni15", "ni16", "ni20")
	for _, shards := range []int{1, 2, 4} {
		for name, run := range map[string]func(*testing.T, *ipfVector, int){
			"ni6": ipfRPC, "ni13": ipfPPTP, "ni15": ipfPPTP, "ni16": ipfPPTP, "ni20": ipfRSH,
		} {
			t.Run(fmt.Sprintf("%s/%d", name, shards), func(t *testing.T) { run(t, vectors[name], shards) })
		}
	}
}

// ipfRSH is a server of rsh behind DNAT, whose connection for errors comes from inside.
func ipfRSH(t *testing.T, v *ipfVector, shards int) {
	b := newHelpBox(t, shards, "*raw\n-A PREROUTING -p tcp --dport 514 -j CT --helper rsh\nCOMMIT\n"+
		"*nat\n-A PREROUTING -i outside -d 10.1.1.4 -p tcp --dport 514 -j DNAT --to-destination 192.168.113.4:514\nCOMMIT\n"+onlyRelated("-i outside -p tcp --dport 514"))
	for i, in := range v.Input {
		d, err := hex.DecodeString(in.Hex)
		if err != nil {
			t.Fatal(err)
		}
		from := inside
		if in.Dir == "in" {
			from = outside
		}
		want, _ := hex.DecodeString(v.Expected[0][i])
		if out, verdict := b.pass(from, d); plainHex(out) != plainHex(want) {
			t.Errorf("packet %d: %v %v\n got %s\nwant %s", i, verdict.State, verdict.Reason, plainHex(out), plainHex(want))
		}
	}
}

// ipfPPTP is a call and its tunnel. The input of two of them has lost its IP headers, in
// which a test was to fill in addresses; so what is sent is what is expected, with the
// translation undone.
func ipfPPTP(t *testing.T, v *ipfVector, shards int) {
	rules := "*raw\n-A PREROUTING -p tcp --dport 1723 -j CT --helper pptp\nCOMMIT\n" + onlyRelated("-p tcp --dport 1723")
	nic0, clientIn, inner, outer := "c0a87101", inside, "", ""
	switch v.Test {
	case "ni13":
		nic0, clientIn = "c0a87103", outside
	case "ni16":
		rules += "*nat\n-A POSTROUTING -o outside -s 10.2.2.2 -j SNAT --to-source 192.168.113.1\nCOMMIT\n"
		inner, outer = "10.2.2.2", "192.168.113.1"
	}
	b, call := newHelpBox(t, shards, rules), uint16(0x4000)
	for i, text := range v.Expected[0] {
		want, err := hex.DecodeString(strings.NewReplacer(" ", "", "IPCKSUM", "0000", "NIC0HEXADDR", nic0).Replace(text))
		if err != nil {
			t.Fatal(err)
		}
		server := netip.AddrFrom4([4]byte(want[12:])) == netip.MustParseAddr("192.168.113.3")
		from, sent := clientIn, append([]byte(nil), want...)
		if server {
			from = 1 - clientIn
		}
		if inner != "" {
			in, out := netip.MustParseAddr(inner).As4(), netip.MustParseAddr(outer).As4()
			if server {
				copy(sent[16:], out[:])
			} else {
				copy(sent[12:], in[:])
			}
		}
		at, message := callAt(want)
		if server && at > 0 { // the server knows the call by the id that it was told
			binary.BigEndian.PutUint16(sent[at:], call)
		}
		out, verdict := b.pass(from, resummed(sent))
		if message == 7 && len(out) == len(want) && inner != "" { // Outgoing-Call-Request: IPFilter leaves the id
			call = binary.BigEndian.Uint16(out[at:])
			binary.BigEndian.PutUint16(want[at:], call)
			resummed(want)
		}
		if plainHex(out) != plainHex(want) {
			t.Errorf("packet %d: %v %v\n got %s\nwant %s", i, verdict.State, verdict.Reason, plainHex(out), plainHex(want))
		}
	}
}

// callAt returns where a packet has the call id of the client, 0 if it has none, and its type
// if it is a control message (RFC 2637, 2 and 4.1).
func callAt(d []byte) (at int, message uint16) {
	if d[9] == 47 {
		return 26, 0
	}
	if len(d) < 56 {
		return 0, 0
	}
	message = binary.BigEndian.Uint16(d[48:])
	return map[uint16]int{7: 52, 8: 54}[message], message
}

// ipfRPC is a port mapper behind DNAT, whose client is translated too: the connection to the
// port that it names passes. IPFilter prints addresses, ports and lengths; the payload stays.
func ipfRPC(t *testing.T, v *ipfVector, shards int) {
	b := newHelpBox(t, shards, "*raw\n-A PREROUTING -p udp --dport 111 -j CT --helper rpc\nCOMMIT\n"+
		"*nat\n-A PREROUTING -i inside -d 192.168.6.2 -p udp --dport 111 -j DNAT --to-destination 192.168.7.1:111\n-A POSTROUTING -o outside -s 192.168.6.0/24 -j SNAT --to-source 192.168.7.2\nCOMMIT\n"+
		onlyRelated("-i inside -p udp --dport 111"))
	for i := 0; i < len(v.Input); i += 2 { // comes in by one interface, and leaves by the other
		d, err := hex.DecodeString(v.Input[i].Hex)
		if err != nil {
			t.Fatal(err)
		}
		from := inside
		if v.Input[i].Ifc == "NIC1" {
			from = outside
		}
		_, want, _ := strings.Cut(v.Expected[0][i+1], "(20) ")
		out, verdict := b.pass(from, append([]byte(nil), d...))
		if out == nil {
			t.Errorf("packet %d does not leave: %v %v", i, verdict.State, verdict.Reason)
			continue
		}
		port := func(at int) uint16 { return binary.BigEndian.Uint16(out[at:]) }
		got := fmt.Sprintf("%d %v,%d > %v,%d", out[9], netip.AddrFrom4([4]byte(out[12:])), port(20), netip.AddrFrom4([4]byte(out[16:])), port(22))
		if got != want || string(out[28:]) != string(d[28:]) {
			t.Errorf("packet %d:\n got %s %x\nwant %s %x", i, got, out[28:], want, d[28:])
		}
	}
}
