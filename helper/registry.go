package helper

// All returns every helper that there is, a line each.
func All() *Registry {
	return NewRegistry(
		ftp(),
		irc(),
		tftp(),
		amanda(),
		sip(),
		pptp(),
		h245(),
		q931(),
		ras(),
		sane(),
		netbiosNS(),
		snmp(),
		snmpTrap(),
		rsh(),
		rpc(),
	)
}
