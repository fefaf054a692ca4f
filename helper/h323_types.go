package helper

// The types of H.225.0 and H.245 (ITU-T, ASN.1 modules H323-MESSAGES and MULTIMEDIA-SYSTEM-
// CONTROL), as far as what carries transport addresses: the same messages and fields as in
// nf_conntrack_h323_types.c. What stands inline in front of such a field has to be known in
// full; what is behind the "..." of a type is in open types, and can be left out.

// The tags of what matters.
const (
	_               perTag = iota
	h323Message            // which message: of RAS, and of Q.931's user-user
	h323H245Address        // h245Address
	h323DestSignal         // destCallSignalAddress
	h323SrcSignal          // sourceCallSignalAddress, srcCallSignalAddress
	h323Signals            // callSignalAddress
	h323RAS                // rasAddress, replyAddress
	h323Forward            // alternativeAddress
	h323Reason             // of Facility
	h323TTL                // timeToLive
	h323Channel            // forwardLogicalChannelNumber: here a request for a channel begins
	h323Acked              // and here an answer
	h323T120               // what the T.120 data of a channel run over
	h323Media              // mediaChannel, mediaControlChannel
	h323Stack              // separateStack
)

// Types of H.225.0.
var (
	h225NonStandard = perSeq(
		perIs(perAlt(perOID, perSeq(perIs(perByte), perIs(perByte), perIs(perWord)).extensible()).extensible()),
		perIs(perBytes))
	h225Address = perAlt(
		perSeq(perIs(perIPv4)), // ipAddress
		perSeq(perIs(perText(8, 4, 4)), perIs(perWord), perIs(perOf(perText(8, 4, 4))), perIs(perNils(2).extensible())).extensible(), // ipSourceRoute
		perSeq(perIs(perText(8, 6, 6)), perIs(perText(8, 4, 4)), perIs(perText(8, 2, 2))),                                            // ipxAddress
		perSeq(perIs(perIPv6)).extensible(), // ip6Address
		perText(8, 16, 16),                  // netBios
		perText(8, 1, 20),                   // nsap
		h225NonStandard,
	).extensible()
	h225Alias  = perAlt(perText(4, 1, 128), perText(16, 1, 256)).extensible() // dialedDigits, h323-ID
	h225Name   = perText(16, 1, 128)                                          // of an endpoint or a gatekeeper
	h225Vendor = perSeq(
		perIs(perSeq(perIs(perByte), perIs(perByte), perIs(perWord)).extensible()),
		perOpt(perText(8, 1, 256)), perOpt(perText(8, 1, 256))).extensible()
	h225Caps     = perSeq(perOpt(h225NonStandard)).extensible() // of one protocol, gatekeepers, terminals and MCUs
	h225Protocol = perAlt(h225NonStandard, h225Caps, h225Caps, h225Caps, h225Caps, h225Caps, h225Caps, h225Caps, h225Caps).extensible()
	h225Endpoint = perSeq(
		perOpt(h225NonStandard), perOpt(h225Vendor), perOpt(h225Caps),
		perOpt(perSeq(perOpt(perOf(h225Protocol)), perOpt(h225NonStandard)).extensible()),
		perOpt(h225Caps), perOpt(h225Caps), perIs(perFlag), perIs(perFlag)).extensible()
	h225CallType = perNils(4).extensible()
	h225Services = perSeq(
		perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag), perIs(perFlag),
		perIs(perSeq(perIs(perFlag), perIs(perFlag)).extensible())).extensible()
	h225H245Address = h225Address.tagged(h323H245Address)
	h225FastStart   = perOf(perHolds(h245Open))

	h225Setup = perSeq(
		perIs(perOID), perOpt(h225H245Address), perOpt(perOf(h225Alias)), perIs(h225Endpoint), perOpt(perOf(h225Alias)),
		perOpt(h225Address.tagged(h323DestSignal)), perOpt(perOf(h225Alias)), perOpt(perOf(perWord)),
		perIs(perFlag), perIs(perGUID), perIs(perNils(3).extensible()), perOpt(h225Services), perIs(h225CallType),
	).extensible(h225Address.tagged(h323SrcSignal), nil, nil, nil, nil, nil, h225FastStart)
	// callProceeding and alerting
	h225Proceeding = perSeq(perIs(perOID), perIs(h225Endpoint), perOpt(h225H245Address)).
			extensible(nil, nil, nil, nil, h225FastStart)
	h225Connect = perSeq(perIs(perOID), perOpt(h225H245Address), perIs(h225Endpoint), perIs(perGUID)).
			extensible(nil, nil, nil, nil, h225FastStart)
	h225Release  = perSeq(perIs(perOID), perOpt(perNils(12).extensible())).extensible()
	h225Facility = perSeq(
		perIs(perOID), perOpt(h225Address.tagged(h323Forward)), perOpt(perOf(h225Alias)), perOpt(perGUID),
		perIs(perNils(4).extensible().saying(h323Reason)),
	).extensible(nil, nil, nil, nil, nil, nil, h225H245Address, h225FastStart)
	// In progress everything stands inline. Behind tokens (H.235) nothing is read: who has
	// those protects the addresses, too.
	h225Progress = perSeq(
		perIs(perOID), perIs(h225Endpoint), perOpt(h225H245Address), perIs(perSeq(perIs(perGUID)).extensible()),
		perOpt(h225Security), perOpt(perEnd), perOpt(perEnd), perOpt(h225FastStart)).extensible()
	h225Security     = perAlt(h225NonStandard, perNil, h225Capabilities, h225Capabilities).extensible()
	h225Mode         = perAlt(h225NonStandard, perNil, perNil).extensible()
	h225Capabilities = perSeq(perOpt(h225NonStandard), perIs(h225Mode), perIs(h225Mode), perIs(h225Mode)).extensible()

	// h225UserUser is H323-UserInformation, the user-user element of Q.931.
	h225UserUser = perSeq(perIs(perSeq(
		perIs(perAlt(
			h225Setup, h225Proceeding, h225Connect, h225Proceeding,
			perSeq(perIs(perOID)).extensible(), // information
			h225Release, h225Facility,
		).extensible(h225Progress).saying(h323Message)),
		perOpt(h225NonStandard),
	).extensible(nil, nil, perOf(perHolds(h245Message))))).extensible().unread(1)
)

// The messages of RAS, by the index of their alternatives.
const (
	rasGatekeeperRequest     = 0
	rasGatekeeperConfirm     = 1
	rasRegistrationRequest   = 3
	rasRegistrationConfirm   = 4
	rasUnregistrationRequest = 6
	rasAdmissionRequest      = 9
	rasAdmissionConfirm      = 10
	rasLocationRequest       = 18
	rasLocationConfirm       = 19
	rasInfoResponse          = 22
	rasMessages              = 25
)

var (
	rasSignals  = perOf(h225Address).tagged(h323Signals)
	rasAddress  = h225Address.tagged(h323RAS)
	rasModel    = perNils(2).extensible()
	rasLifetime = perInt(1, 1<<32-1).saying(h323TTL)

	// h225RAS is RasMessage.
	h225RAS = func() *perType {
		t := perAlt().of(rasMessages).extensible().saying(h323Message)
		t.root = make([]perField, rasMessages)
		for i := range t.root {
			t.root[i] = perIs(perEnd)
		}
		for i, m := range map[int]*perType{
			rasGatekeeperRequest: perSeq(perIs(perIndex), perIs(perOID), perOpt(h225NonStandard), perIs(rasAddress)).unread(3),
			rasGatekeeperConfirm: perSeq(perIs(perIndex), perIs(perOID), perOpt(h225NonStandard), perOpt(h225Name), perIs(rasAddress)).unread(0),
			rasRegistrationRequest: perSeq(
				perIs(perIndex), perIs(perOID), perOpt(h225NonStandard), perIs(perFlag), perIs(rasSignals),
				perIs(perOf(h225Address).tagged(h323RAS)), perIs(h225Endpoint), perOpt(perOf(h225Alias)), perOpt(h225Name),
				perIs(h225Vendor)).extensible(nil, rasLifetime),
			rasRegistrationConfirm: perSeq(
				perIs(perIndex), perIs(perOID), perOpt(h225NonStandard), perIs(rasSignals), perOpt(perOf(h225Alias)),
				perOpt(h225Name), perIs(h225Name)).extensible(nil, rasLifetime),
			rasUnregistrationRequest: perSeq(perIs(perIndex), perIs(rasSignals)).unread(3),
			rasAdmissionRequest: perSeq(
				perIs(perIndex), perIs(h225CallType), perOpt(rasModel), perIs(h225Name), perOpt(perOf(h225Alias)),
				perOpt(h225Address.tagged(h323DestSignal)), perOpt(perOf(h225Alias)), perIs(perOf(h225Alias)),
				perOpt(h225Address.tagged(h323SrcSignal))).unread(2),
			rasAdmissionConfirm: perSeq(perIs(perIndex), perIs(perLong), perIs(rasModel), perIs(h225Address.tagged(h323DestSignal))).unread(2),
			rasLocationRequest: perSeq(
				perIs(perIndex), perOpt(h225Name), perIs(perOf(h225Alias)), perOpt(h225NonStandard), perIs(rasAddress)).unread(0),
			rasLocationConfirm: perSeq(perIs(perIndex), perIs(h225Address.tagged(h323DestSignal))).unread(1),
			rasInfoResponse: perSeq(
				perOpt(h225NonStandard), perIs(perIndex), perIs(h225Endpoint), perIs(h225Name), perIs(rasAddress), perIs(rasSignals)).unread(2),
		} {
			m.ext = true
			t.root[i] = perIs(m)
		}
		return t
	}()
)
