package mirror

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/xdpct/xdpct/route"
)

// conf is the sysctls of net.ipv4.conf that are in force for an interface.
type conf struct {
	reversePath                                           int
	acceptLocal, srcValidMark, sendRedirects, sharedMedia bool
}

// readConf reads them. It runs in the namespace. What cannot be read is off.
func readConf(names []string) map[string]conf {
	read := func(name, key string) int {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", name, key))
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return n
	}
	all := map[string]conf{}
	keys := [...]string{"rp_filter", "accept_local", "src_valid_mark", "send_redirects", "shared_media"}
	var general [len(keys)]int
	for i, k := range keys {
		general[i] = read("all", k)
	}
	for _, name := range names {
		v := general
		for i, k := range keys {
			v[i] = max(v[i], read(name, k)) // IN_DEV_MAXCONF, IN_DEV_ORCONF
		}
		all[name] = conf{v[0], v[1] != 0, v[2] != 0, v[3] != 0, v[4] != 0}
	}
	return all
}

func (c conf) set(i *route.Interface) {
	i.ReversePath, i.AcceptLocal, i.SrcValidMark = c.reversePath, c.acceptLocal, c.srcValidMark
	i.SendRedirects, i.SharedMedia = c.sendRedirects, c.sharedMedia
}

// pollConf reads the sysctls anew: nobody tells of all of them.
func (m *Mirror) pollConf() {
	var names []string
	for _, i := range m.work.Interfaces {
		names = append(names, i.Name)
	}
	m.job(func() outcome {
		o := outcome{part: numParts}
		o.err = m.cfg.InNamespace(func() error {
			o.conf = readConf(names)
			return nil
		})
		return o
	})
}
