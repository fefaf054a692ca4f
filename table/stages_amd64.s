#include "textflag.h"

// A bucket is 64 bytes: 12 tags, 4 bytes that are no tags, 12 entry numbers. An
// entry is 128 bytes.

// func expect(hash []uint64, buckets []bucket)
TEXT ·expect(SB), NOSPLIT, $0-48
	MOVQ hash_base+0(FP), SI
	MOVQ hash_len+8(FP), CX
	MOVQ buckets_base+24(FP), R9
	MOVQ buckets_len+32(FP), R10

next:
	MOVQ (SI), AX
	MULQ R10 // DX = home
	SHLQ $6, DX
	PREFETCHT0 (R9)(DX*1)
	ADDQ $8, SI
	DECQ CX
	JNZ  next
	RET

// func locate(hash []uint64, both []uint8, likely []uint32, buckets []bucket, conns []flow.Conn) (odd uint64)
TEXT ·locate(SB), NOSPLIT, $0-128
	MOVQ hash_base+0(FP), SI
	MOVQ hash_len+8(FP), CX
	MOVQ both_base+24(FP), DI
	MOVQ likely_base+48(FP), R8
	MOVQ buckets_base+72(FP), R9
	MOVQ buckets_len+80(FP), R10
	MOVQ conns_base+96(FP), R11
	XORL R12, R12 // odd
	MOVL $1, R13  // the bit of this packet

next:
	MOVQ (SI), BX
	MOVQ BX, AX
	MULQ R10
	SHLQ $6, DX
	ADDQ R9, DX   // the home bucket

	// The tag, 1 if it would be 0, in sixteen bytes.
	MOVBLZX BL, AX
	CMPL    AX, $1
	ADCL    $0, AX
	IMULL   $0x01010101, AX
	MOVQ    AX, X0
	PSHUFD  $0, X0, X0

	PCMPEQB  (DX), X0
	PMOVMSKB X0, AX
	ANDL     $0xfff, AX
	JZ       none
	BSFL     AX, BX
	MOVL     16(DX)(BX*4), BX
	MOVL     BX, (R8)
	ADDL     BX, BX // without the bit that tells the keys apart
	SHLQ     $6, BX
	PREFETCHT0 (R11)(BX*1)
	CMPB     (DI), $0
	JEQ      one
	PREFETCHT0 64(R11)(BX*1)

one:
	LEAL -1(AX), BX
	TESTL AX, BX
	JNZ  several

advance:
	ADDQ $8, SI
	INCQ DI
	ADDQ $4, R8
	ADDQ R13, R13
	DECQ CX
	JNZ  next
	MOVQ R12, odd+120(FP)
	RET

none:
	MOVL $-1, (R8)

several:
	ORQ R13, R12
	JMP advance

// func expectBucket(b *bucket)
TEXT ·expectBucket(SB), NOSPLIT, $0-8
	MOVQ b+0(FP), AX
	PREFETCHT0 (AX)
	RET

// func expectConn(c *flow.Conn, both uint8)
TEXT ·expectConn(SB), NOSPLIT, $0-9
	MOVQ c+0(FP), AX
	PREFETCHT0 (AX)
	CMPB both+8(FP), $0
	JEQ  done
	PREFETCHT0 64(AX)

done:
	RET

// func expectBeside(likely []uint32, base *byte, size uintptr)
TEXT ·expectBeside(SB), NOSPLIT, $0-40
	MOVQ likely_base+0(FP), SI
	MOVQ likely_len+8(FP), CX
	MOVQ base+24(FP), R8
	MOVQ size+32(FP), R9
	TESTQ CX, CX
	JEQ  done

next:
	MOVL (SI), AX
	ANDL $0x7fffffff, AX // either key
	IMULQ R9, AX
	PREFETCHT0 (R8)(AX*1)
	ADDQ $4, SI
	DECQ CX
	JNZ  next

done:
	RET
