#include "textflag.h"

// func touch(addrs *[MaxBatch]uintptr, n int)
TEXT ·touch(SB), NOSPLIT, $0-16
	MOVQ addrs+0(FP), SI
	MOVQ n+8(FP), CX
	TESTQ CX, CX
	JLE  done

next:
	MOVQ (SI), AX
	MOVBLZX (AX), BX
	ADDQ $8, SI
	DECQ CX
	JNZ  next

done:
	RET
