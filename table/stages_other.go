//go:build !amd64

package table

import "github.com/xdpct/xdpct/flow"

func expect([]uint64, []bucket) {}

func locate(hash []uint64, _ []uint8, likely []uint32, buckets []bucket, _ []flow.Conn) (odd uint64) {
	return locateSlow(hash, likely, buckets)
}

func expectBeside([]uint32, *byte, uintptr) {}

func expectBucket(*bucket) {}

func expectConn(*flow.Conn, uint8) {}
