// Package capture reads and writes packet captures as a source and a sink of
// frames: pcap and pcapng, with micro- or nanoseconds, also gzipped.
//
// The files are parsed by github.com/gopacket/gopacket/pcapgo; this package
// adds the link layers, the position of errors, and the detection of the
// format.
package capture

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/xdpct/xdpct/packet"
)

// Frame is one captured frame. Data is valid until the next call of Next.
type Frame struct {
	N    int       // number in the file, from 1
	Time time.Time // zero where the capture has no time for it
	Data []byte
	Wire int // length on the wire, at least len(Data)
	Link LinkType
}

// LinkType is a pcap link type (LINKTYPE_*).
type LinkType uint16

// The link types that Parse understands.
const (
	LinkNull     LinkType = 0
	LinkEthernet LinkType = 1
	LinkPPP      LinkType = 9
	linkRawBSD   LinkType = 12 // DLT_RAW as some writers have it
	linkRawOpen  LinkType = 14 // DLT_RAW of OpenBSD
	LinkRaw      LinkType = 101
	LinkLoop     LinkType = 108
	LinkSLL      LinkType = 113
	LinkIPv4     LinkType = 228
	LinkIPv6     LinkType = 229
	LinkSLL2     LinkType = 276
)

// Understood reports whether Parse understands the link type.
func (l LinkType) Understood() bool {
	switch l {
	case LinkNull, LinkEthernet, LinkPPP, linkRawBSD, linkRawOpen, LinkRaw, LinkLoop, LinkSLL, LinkIPv4, LinkIPv6, LinkSLL2:
		return true
	}
	return false
}

// Parse parses the frame into p, by its link type. A link type that is not
// listed here carries nothing that is tracked.
func (f *Frame) Parse(p *packet.Packet, checks packet.Checks) {
	off, typ := f.linkHeader()
	if off > len(f.Data) {
		p.Parse(nil, 0, checks) // too short
		p.Frame = f.Data
		return
	}
	p.ParseFrom(f.Data, f.Wire, off, typ, checks)
}

// linkHeader returns the length of the link header and what follows it. The
// length may be beyond the frame.
func (f *Frame) linkHeader() (off int, typ packet.EtherType) {
	field := func(at int) packet.EtherType {
		if len(f.Data) < at+2 {
			return 0
		}
		return packet.EtherType(binary.BigEndian.Uint16(f.Data[at:]))
	}
	switch f.Link {
	case LinkEthernet:
		return 14, field(12)
	case LinkSLL:
		return 16, field(14)
	case LinkSLL2:
		return 20, field(0)
	case LinkPPP:
		if field(0) == 0xff03 { // address and control field (RFC 1662)
			return 4, pppProtocol(field(2))
		}
		return 2, pppProtocol(field(0))
	case LinkNull, LinkLoop:
		return 4, f.ipVersion(4)
	case LinkRaw, linkRawBSD, linkRawOpen:
		return 0, f.ipVersion(0)
	case LinkIPv4:
		return 0, packet.EtherIPv4
	case LinkIPv6:
		return 0, packet.EtherIPv6
	}
	return 0, 0
}

func pppProtocol(p packet.EtherType) packet.EtherType {
	switch p {
	case 0x0021:
		return packet.EtherIPv4
	case 0x0057:
		return packet.EtherIPv6
	}
	return 0
}

// ipVersion tells the protocol by the first nibble at off: the family numbers
// of BSD loopback headers differ from system to system.
func (f *Frame) ipVersion(off int) packet.EtherType {
	if len(f.Data) <= off {
		return packet.EtherIPv4 // which will be found too short
	}
	switch f.Data[off] >> 4 {
	case 4:
		return packet.EtherIPv4
	case 6:
		return packet.EtherIPv6
	}
	return 0
}

// Reader reads the frames of one file.
type Reader struct {
	name string
	file io.Closer
	next func() ([]byte, gopacket.CaptureInfo, error)
	link func(gopacket.CaptureInfo) LinkType
	n    int
}

// Open opens a capture. The error names the file.
func Open(name string) (*Reader, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(name, file)
	if err != nil {
		file.Close()
		return nil, err
	}
	r.file = file
	return r, nil
}

// NewReader reads a capture from src; name is for messages. Closing the Reader
// does not close src.
func NewReader(name string, src io.Reader) (*Reader, error) {
	r, err := newReader(name, src)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r.file = io.NopCloser(nil)
	return r, nil
}

const (
	gzipMagic   = 0x1f8b
	pcapngMagic = 0x0a0d0d0a
)

func newReader(name string, src io.Reader) (*Reader, error) {
	br := bufio.NewReaderSize(src, 1<<16)
	if magic, err := br.Peek(2); err == nil && binary.BigEndian.Uint16(magic) == gzipMagic {
		gz, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("not a gzip file: %w", err)
		}
		br = bufio.NewReaderSize(gz, 1<<16)
	}
	magic, err := br.Peek(4)
	if err != nil {
		return nil, errors.New("not a capture: shorter than a file header")
	}
	r := &Reader{name: name}
	if binary.BigEndian.Uint32(magic) == pcapngMagic {
		ng, err := pcapgo.NewNgReader(br, pcapgo.NgReaderOptions{WantMixedLinkType: true, SkipUnknownVersion: true})
		if err != nil {
			return nil, fmt.Errorf("not a pcapng capture: %w", err)
		}
		r.next = ng.ZeroCopyReadPacketData
		r.link = func(ci gopacket.CaptureInfo) LinkType {
			if len(ci.AncillaryData) > 0 {
				if l, ok := ci.AncillaryData[0].(layers.LinkType); ok {
					return LinkType(l)
				}
			}
			return 0xffff
		}
		return r, nil
	}
	pr, err := pcapgo.NewReader(br)
	if err != nil {
		return nil, fmt.Errorf("not a pcap or pcapng capture: %w", err)
	}
	// The upper bits of the field say whether frames end in a checksum; the
	// library has cut them off.
	link := LinkType(pr.LinkType())
	r.next = func() ([]byte, gopacket.CaptureInfo, error) {
		data, ci, err := pr.ZeroCopyReadPacketData()
		if err != nil && ci.CaptureLength > ci.Length && ci.CaptureLength <= maxSnap && len(data) == 0 {
			return readOver(br, ci)
		}
		return data, ci, err
	}
	r.link = func(gopacket.CaptureInfo) LinkType { return link }
	return r, nil
}

// maxSnap is the longest frame that a capture may have (MAXIMUM_SNAPLEN of libpcap).
const maxSnap = 1 << 18

// readOver reads the bytes of a record that claims that the frame was shorter than what
// was captured of it. The library refuses it after it has read the record's header;
// libpcap, and so tcpdump, take the bytes that there are.
func readOver(src io.Reader, ci gopacket.CaptureInfo) ([]byte, gopacket.CaptureInfo, error) {
	data := make([]byte, ci.CaptureLength)
	if _, err := io.ReadFull(src, data); err != nil {
		return nil, ci, err
	}
	return data, ci, nil
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Next reads the next frame. It returns io.EOF at the end; any other error names
// the file and the number of the frame that could not be read, and ends the
// capture.
func (r *Reader) Next(f *Frame) error {
	data, ci, err := r.next()
	if errors.Is(err, io.EOF) && ci.CaptureLength == 0 && ci.Length == 0 {
		return io.EOF
	}
	r.n++
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the file ends in the middle of it")
		}
		return fmt.Errorf("%s: frame %d: %w", r.name, r.n, err)
	}
	*f = Frame{N: r.n, Time: ci.Timestamp, Data: data, Wire: max(ci.Length, len(data)), Link: r.link(ci)}
	return nil
}

// Writer writes frames of one link type to a pcap file with nanoseconds.
type Writer struct {
	file *os.File
	gz   *gzip.Writer
	buf  *bufio.Writer
	pcap *pcapgo.Writer
	link LinkType
}

// Create creates a capture, gzipped if its name ends in .gz. Every frame written
// to it must have the given link type.
func Create(name string, link LinkType) (*Writer, error) {
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	w := &Writer{file: file, link: link}
	var dst io.Writer = file
	if strings.HasSuffix(name, ".gz") {
		w.gz = gzip.NewWriter(file)
		dst = w.gz
	}
	w.buf = bufio.NewWriterSize(dst, 1<<16)
	w.pcap = pcapgo.NewWriterNanos(w.buf)
	if err := w.pcap.WriteFileHeader(1<<18, layers.LinkType(link)); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return w, nil
}

// Write appends a frame.
func (w *Writer) Write(f *Frame) error {
	if f.Link != w.link {
		return fmt.Errorf("%s: frame %d has link type %d, the capture has %d", w.file.Name(), f.N, f.Link, w.link)
	}
	return w.pcap.WritePacket(gopacket.CaptureInfo{
		Timestamp: f.Time, CaptureLength: len(f.Data), Length: f.Wire,
	}, f.Data)
}

// Close flushes and closes the file.
func (w *Writer) Close() error {
	err := w.buf.Flush()
	if w.gz != nil {
		err = errors.Join(err, w.gz.Close())
	}
	return errors.Join(err, w.file.Close())
}
