package helper

// Types of H.245.
var (
	h245NonStandard = perSeq(perIs(perAlt(perOID, perSeq(perIs(perByte), perIs(perByte), perIs(perWord)))), perIs(perBytes))
	h245Unicast     = perAlt(
		perSeq(perIs(perIPv4)).extensible(), // iPAddress
		perSeq(perIs(perText(8, 6, 6)), perIs(perText(8, 4, 4)), perIs(perText(8, 2, 2))).extensible(), // iPXAddress
		perSeq(perIs(perIPv6)).extensible(), // iP6Address
		perText(8, 16, 16),                  // netBios
		perSeq(perIs(perNils(2)), perIs(perText(8, 4, 4)), perIs(perWord), perIs(perOf(perText(8, 4, 4)))).extensible(), // iPSourceRouteAddress
	).extensible()
	h245Multicast = perAlt(
		perSeq(perIs(perText(8, 4, 4)), perIs(perWord)).extensible(),
		perSeq(perIs(perText(8, 16, 16)), perIs(perWord)).extensible(),
	).extensible()
	h245Address = perAlt(h245Unicast, h245Multicast).extensible()
	h245Media   = h245Address.tagged(h323Media)
)

// What a channel carries: nothing of it matters but whether it is T.120 over a connection
// of its own, yet all of it stands in front of the addresses.
var (
	h245H261 = perSeq(
		perOpt(perInt(1, 4)), perOpt(perInt(1, 4)), perIs(perFlag), perIs(perInt(1, 19200)), perIs(perFlag)).extensible()
	h245H262 = perSeq(
		perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag),
		perIs(perFlag), perIs(perFlag), perIs(perFlag), perOpt(perInt(0, 1073741823)), perOpt(perInt(0, 262143)),
		perOpt(perInt(0, 16383)), perOpt(perInt(0, 16383)), perOpt(perInt(0, 15)), perOpt(perLong)).extensible()
	h245H263 = perSeq(
		perOpt(perInt(1, 32)), perOpt(perInt(1, 32)), perOpt(perInt(1, 32)), perOpt(perInt(1, 32)), perOpt(perInt(1, 32)),
		perIs(perInt(1, 192400)), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag),
		perOpt(perInt(0, 524287)), perOpt(perWord)).extensible()
	h245IS11172Video = perSeq(
		perIs(perFlag), perOpt(perInt(0, 1073741823)), perOpt(perInt(0, 262143)), perOpt(perInt(0, 16383)),
		perOpt(perInt(0, 16383)), perOpt(perInt(0, 15)), perOpt(perLong)).extensible()
	h245Video = perAlt(h245NonStandard, h245H261, h245H262, h245H263, h245IS11172Video).extensible()

	h245Frames = perInt(1, 256)
	h245Audio  = perAlt(
		h245NonStandard, h245Frames, h245Frames, h245Frames, h245Frames, h245Frames, h245Frames, h245Frames,
		perSeq(perIs(h245Frames), perIs(perFlag)), // g7231
		h245Frames, h245Frames, h245Frames,
		perFlags(8, perInt(1, 448)),   // is11172AudioCapability
		perFlags(20, perInt(1, 1130)), // is13818AudioCapability
	).extensible()
	h245Protocol = perAlt(h245NonStandard, perNil, perNil, perNil, perNil, perNil, perNil).extensible()
	h245T84      = perSeq(perIs(h245Protocol), perIs(perAlt(perNil, perFlags(19, nil))))
)

// h245SeparateLAN is the index of separateLANStack in DataProtocolCapability.
const h245SeparateLAN = 10

// h245Data is DataType; what T.120 runs over has the tag.
func h245Data(t120 perTag) *perType {
	application := perAlt(
		h245NonStandard, h245Protocol.saying(t120), h245Protocol, h245Protocol, h245T84, h245Protocol, h245Protocol,
		perSeq(perIs(h245Protocol), perIs(perBytes)), perNil, h245Protocol,
	).extensible()
	return perAlt(
		h245NonStandard, perNil, h245Video, h245Audio,
		perSeq(perIs(application), perIs(perLong)).extensible(),
		perAlt(h245NonStandard, perNil).extensible(), // encryptionData
	).extensible()
}

// How a channel is carried.
var (
	h245H222 = perSeq(perIs(perInt(0, 65535)), perIs(perInt(0, 8191)), perOpt(perInt(0, 8191)), perOpt(perBytes), perOpt(perBytes)).extensible()
	h245H223 = perSeq(
		perIs(perAlt(h245NonStandard, perNil, perNil, perNil, perNil, perSeq(perIs(perInt(0, 2)), perIs(perInt(0, 16777215)))).extensible()),
		perIs(perFlag)).extensible()
	h245V76 = perSeq(
		perIs(perSeq(perIs(perNils(3).extensible()), perIs(perInt(1, 4095)), perIs(perFlag)).extensible()),
		perIs(perNils(3).extensible()), perIs(perFlag),
		perIs(perAlt(perSeq(perIs(perInt(1, 127)), perIs(perNils(3).extensible())).extensible(), perNil).extensible()),
		perIs(perSeq(perIs(perFlag)).extensible())).extensible()
	// h2250LogicalChannelParameters
	h245H2250 = perSeq(
		perOpt(perOf(h245NonStandard)), perIs(perByte), perOpt(perInt(1, 255)), perOpt(h245Media), perOpt(perFlag), perOpt(h245Media),
	).extensible().unread(5)
	// h2250LogicalChannelAckParameters
	h245H2250Ack = perSeq(
		perOpt(perOf(h245NonStandard)), perOpt(perInt(1, 255)), perOpt(h245Media), perOpt(h245Media), perOpt(perInt(96, 127)),
	).extensible()
	h245Stack = perSeq(
		perOpt(perNils(2).extensible()),
		perIs(perAlt(
			perSeq(
				perIs(perAlt(perText(4, 1, 16), perText(8, 1, 20)).extensible()), // q2931Address
				perOpt(perText(8, 1, 20))).extensible(),
			perText(4, 1, 128),            // e164Address
			h245Address.tagged(h323Stack), // localAreaAddress
		).extensible()),
	).extensible().unread(1)
)

// Messages.
var (
	// h245Open is OpenLogicalChannel.
	h245Open = perSeq(
		perIs(perIndex.saying(h323Channel)),
		perIs(perSeq(
			perOpt(perWord), perIs(h245Data(h323T120)),
			perIs(perAlt(h245H222, h245H223, h245V76).extensible(h245H2250)),
		).extensible()),
		perOpt(perSeq(
			perIs(h245Data(0)),
			perOpt(perAlt(h245H223, h245V76).extensible(h245H2250)),
		).extensible()),
	).extensible(h245Stack)
	// h245Ack is OpenLogicalChannelAck.
	h245Ack = perSeq(
		perIs(perIndex.saying(h323Acked)),
		perOpt(perSeq(perIs(perIndex), perOpt(perWord), perOpt(perAlt(h245H222).extensible(h245H2250))).extensible()),
	).extensible(h245Stack, perAlt(h245H2250Ack).extensible())
	// h245Message is MultimediaSystemControlMessage.
	h245Message = perAlt(
		perAlt(perEnd, perEnd, perEnd, h245Open).of(11).extensible(),
		perAlt(perEnd, perEnd, perEnd, perEnd, perEnd, h245Ack).of(19).extensible(),
	).of(4).extensible()
)
