package programs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const vsftpdConf = `listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_umask=022
anon_root=%[1]s/ftp
no_anon_password=YES
secure_chroot_dir=%[1]s/empty
connect_from_port_20=YES
port_enable=YES
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
use_localtime=NO
xferlog_enable=NO
dirlist_enable=YES
idle_session_timeout=300
data_connection_timeout=60
accept_timeout=60
connect_timeout=60
pam_service_name=none
`

// files in the folder that lftp mirrors.
const manyFiles = 1000

// testFTP is vsftpd with curl and lftp.
func testFTP(t *testing.T, l *lab) {
	needs(t, "vsftpd")
	conf := filepath.Join(l.dir, "vsftpd.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, vsftpdConf, l.dir), 0o600))
	must(t, os.Mkdir(filepath.Join(l.dir, "empty"), 0o755))
	want := l.file("ftp/file", 300_000)
	must(t, os.Chmod(filepath.Join(l.dir, "ftp"), 0o755))
	for n := range manyFiles {
		l.file(fmt.Sprintf("ftp/many/%04d", n), 100+n)
	}
	upload := filepath.Join(l.dir, "ftp", "upload")
	must(t, os.Mkdir(upload, 0o777))
	must(t, os.Chmod(upload, 0o777))
	l.spawn(l.server, "vsftpd", conf)
	for _, at := range []string{serverIP, poorIP} {
		listening(t, l, at+":21")
	}
	got := filepath.Join(l.dir, "got")
	fetch := func(t *testing.T, args ...string) {
		t.Helper()
		_, err := l.does(l.client, 2*time.Minute, "curl", append([]string{"-sS", "--connect-timeout", "20", "-o", got}, args...)...)
		must(t, err)
		b, err := os.ReadFile(got)
		must(t, err)
		if !bytes.Equal(b, want) {
			t.Fatalf("%d bytes came, not the %d that were sent", len(b), len(want))
		}
	}
	v4, v6 := "ftp://"+serverIP+"/file", "ftp://["+serverIP6+"]/file"
	for _, c := range []struct {
		name string
		args []string
	}{
		{"PASV", []string{"--disable-epsv", v4}}, {"EPSV", []string{v4}}, {"EPSV IPv6", []string{v6}},
		{"PORT", []string{"-P", "-", "--disable-eprt", v4}}, {"EPRT", []string{"-P", "-", v4}}, {"EPRT IPv6", []string{"-P", "-", v6}},
	} {
		t.Run("curl "+c.name, func(t *testing.T) {
			needs(t, "curl")
			fetch(t, c.args...)
		})
	}
	t.Run("curl upload by PORT", func(t *testing.T) {
		needs(t, "curl")
		_, err := l.does(l.client, time.Minute, "curl", "-sS", "-P", "-", "--disable-eprt", "-T", filepath.Join(l.dir, "ftp", "file"), "ftp://"+serverIP+"/upload/")
		must(t, err)
		b, err := os.ReadFile(filepath.Join(upload, "file"))
		must(t, err)
		if !bytes.Equal(b, want) {
			t.Fatalf("%d bytes came, not the %d that were sent", len(b), len(want))
		}
	})
	for name, set := range map[string]string{"passive": "true", "active": "false"} {
		t.Run(fmt.Sprintf("lftp %d files, %s", manyFiles, name), func(t *testing.T) {
			needs(t, "lftp")
			into := filepath.Join(l.dir, name)
			_, err := l.does(l.client, 3*time.Minute, "lftp", "-c", "set net:timeout 20; set net:max-retries 2; set ftp:prefer-epsv false; set ftp:passive-mode "+set+
				"; open ftp://"+serverIP+"; mirror --parallel=2 many "+into)
			must(t, err)
			for n := range manyFiles {
				a, err1 := os.ReadFile(filepath.Join(l.dir, "ftp", "many", fmt.Sprintf("%04d", n)))
				b, err2 := os.ReadFile(filepath.Join(into, fmt.Sprintf("%04d", n)))
				if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
					t.Fatalf("file %d is not what it was: %v, %v", n, err1, err2)
				}
			}
		})
	}
	for name, args := range map[string][]string{"PASV": {"--disable-epsv"}, "PORT": {"-P", "-", "--disable-eprt"}} {
		t.Run("curl "+name+" under loss and reordering", func(t *testing.T) {
			needs(t, "curl")
			l.relay.poor <- 20
			defer func() { l.relay.poor <- 0 }()
			lost, late := l.relay.lost.Load(), l.relay.late.Load()
			for range 3 {
				fetch(t, append(args, "ftp://"+poorIP+"/file")...)
			}
			if lost, late = l.relay.lost.Load()-lost, l.relay.late.Load()-late; lost < 10 || late < 10 {
				t.Errorf("%d frames were lost, and %d came late: that shows nothing", lost, late)
			}
		})
	}
	t.Run("without a helper nothing comes", func(t *testing.T) {
		needs(t, "curl")
		l.load("", "")
		defer l.load(allHelpers, helpers6)
		for _, args := range [][]string{{"--disable-epsv", v4}, {"-P", "-", "--disable-eprt", v4}} {
			if _, err := l.does(l.client, 20*time.Second, "curl", append([]string{"-sS", "-m", "2", "-o", got}, args...)...); err == nil {
				t.Error("the file comes all the same")
			}
		}
	})
}
