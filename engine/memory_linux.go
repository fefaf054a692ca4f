package engine

import (
	"golang.org/x/sys/unix"

	"github.com/xdpct/xdpct/nat"
	"github.com/xdpct/xdpct/shard"
)

// checkMemory refuses more connections than the machine has memory for: most of it is taken
// at the start, where the kernel would rather end processes than say no. frames is what the
// memory for frames takes, in bytes.
func (e *Engine) checkMemory(n int, sc *shard.Config, frames uint64) error {
	var machine unix.Sysinfo_t
	var space unix.Rlimit
	if unix.Sysinfo(&machine) != nil || unix.Getrlimit(unix.RLIMIT_AS, &space) != nil {
		return nil
	}
	need := frames + uint64(n)*uint64(shard.Size(sc))
	if sc.Translates {
		need += uint64(nat.SharedSize(n, n*sc.MaxConns))
	}
	return e.cfg.fits(need, machine.Totalram*uint64(machine.Unit), space.Cur)
}

// fits says what is wrong with nf_conntrack_max if need bytes are more than the machine has,
// or than the address space of a process may be.
func (c *Config) fits(need, machine, space uint64) error {
	const mib = 1 << 20
	wants := (need + mib - 1) / mib
	switch {
	case need > machine:
		return bad("nf_conntrack_max", "%d connections take %d MiB of memory, and this machine has %d MiB", c.Settings.Max, wants, machine/mib)
	case need > space:
		return bad("nf_conntrack_max", "%d connections take %d MiB of memory, and the limit on the address space is %d MiB (ulimit -v)", c.Settings.Max, wants, space/mib)
	}
	return nil
}
