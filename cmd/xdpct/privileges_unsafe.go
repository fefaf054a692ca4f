package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	"github.com/xdpct/xdpct/engine"
	"github.com/xdpct/xdpct/rx"
)

// needed are the capabilities that a running engine needs, for an interface that comes
// back: a program is loaded (CAP_BPF), attached, and told what is the host's
// (CAP_NET_ADMIN), and sockets are opened (CAP_NET_RAW). Neighbours are asked for with
// CAP_NET_ADMIN, too. That of a router finds transport headers behind IP headers of any
// length, and the kernel's verifier lets nobody without CAP_PERFMON add a variable to a
// pointer. That of a port in generic mode reads what the kernel knows of a frame (how long
// the segments are that were glued into it), for which the verifier wants the same.
func needed(mode engine.Mode, generic bool) []int {
	caps := []int{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_BPF}
	if mode == engine.Router || generic {
		caps = append(caps, unix.CAP_PERFMON)
	}
	return caps
}

// kept returns the capabilities to keep: those that are needed, and where the limit on
// locked memory cannot be lifted, CAP_IPC_LOCK, since frame memory is registered anew if
// all ports were gone.
func kept(mode engine.Mode, generic bool) []int {
	caps := needed(mode, generic)
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all) != nil {
		caps = append(caps, unix.CAP_IPC_LOCK)
	}
	return caps
}

// dropPrivileges takes from every thread of the process all capabilities but those that
// are kept, for good: neither this process nor one that it could start gets another
// (no_new_privs). What cannot be taken is an error.
func dropPrivileges(keeping []int) error {
	keep := map[int]bool{}
	var set [2]unix.CapUserData
	for _, c := range keeping {
		keep[c] = true
		set[c/32].Permitted |= 1 << (c % 32)
	}
	have, err := capabilities()
	if err != nil {
		return err
	}
	for i := range set {
		set[i].Permitted &= have[i].Permitted
		set[i].Effective = set[i].Permitted
	}
	if have[unix.CAP_SETPCAP/32].Effective>>(unix.CAP_SETPCAP%32)&1 != 0 {
		for c := 0; c <= lastCapability(); c++ {
			if keep[c] {
				continue
			}
			if err := onAllThreads("PR_CAPBSET_DROP", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); err != nil {
				return err
			}
		}
	}
	// Ambient capabilities go with the inheritable ones, which are none.
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := onAllThreads("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&set[0])), 0); err != nil {
		return err
	}
	_, _, e := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if e != 0 {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", e)
	}
	return nil
}

func onAllThreads(name string, number, a, b, c uintptr) error {
	if _, _, e := psx.Syscall3(number, a, b, c); e != 0 {
		return fmt.Errorf("%s: %w", name, e)
	}
	return nil
}

func capabilities() (have [2]unix.CapUserData, err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &have[0]); err != nil {
		return have, fmt.Errorf("capget: %w", err)
	}
	return have, nil
}

// lastCapability returns the highest capability that the kernel knows.
func lastCapability() (c int) {
	c = unix.CAP_LAST_CAP
	if b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap"); err == nil {
		_, _ = fmt.Sscan(string(b), &c)
	}
	return c
}

// privileged logs what is missing of the capabilities that starting needs.
func privileged(cfg *engine.Config, log *slog.Logger) {
	have, err := capabilities()
	if err != nil {
		log.Warn("capabilities are not known", "error", err)
		return
	}
	names := map[int]string{unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW", unix.CAP_BPF: "CAP_BPF", unix.CAP_PERFMON: "CAP_PERFMON"}
	var missing []string
	for _, c := range needed(cfg.Mode, cfg.XDP == rx.ModeGeneric) {
		if have[c/32].Effective>>(c%32)&1 == 0 {
			missing = append(missing, names[c])
		}
	}
	if len(missing) > 0 {
		log.Warn("without these capabilities it may not start, or an interface may not come back", "missing", strings.Join(missing, ","))
	}
}

// confine drops the privileges of a process whose engine has started, and says which
// files it will not be able to read again. generic says that a port is in generic mode.
func confine(cfg *engine.Config, generic bool, log *slog.Logger) error {
	if err := dropPrivileges(kept(cfg.Mode, generic)); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	for _, name := range []string{cfg.Rules.IPv4, cfg.Rules.IPv6} {
		if name == "" {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a FIFO by now
		if errors.Is(err, os.ErrPermission) {
			log.Warn("SIGHUP will not be able to read this file: it belongs to another user, and the capability to read it is dropped", "file", name)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	return nil
}
