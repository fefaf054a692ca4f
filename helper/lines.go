package helper

import "bytes"

// endlessLine is how many bytes a line may have before the stream is taken for none of lines:
// more than any of a protocol of commands has, and no more than is worth to be counted.
const endlessLine = 1 << 16

// lineReader cuts one direction of a stream into lines that end in LF. A line that is of no
// interest is used up as its bytes come, so that none of it is held back; only of one that may
// be of interest the beginning is waited with.
type lineReader struct {
	inside bool // of a line that is of no interest
	length int  // of that line so far
}

// pass uses up bytes of a line of no interest, up to its end if that is there.
func (l *lineReader) pass(data []byte) (n int, err error) {
	if !l.inside {
		l.inside, l.length = true, 0
	}
	n = len(data)
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		l.inside = false
		l.length += i
		n = i + 1
	} else {
		l.length += n
	}
	if l.length > endlessLine {
		return 0, ErrTooLong
	}
	return n, nil
}

// whole returns the line at the beginning of data with its LF. If the end is not there yet,
// both are 0 and it is to be waited for; a line of more than limit bytes is passed over, and
// n is then not 0.
func (l *lineReader) whole(data []byte, limit int) (line []byte, n int, err error) {
	if i := bytes.IndexByte(data[:min(len(data), limit+1)], '\n'); i >= 0 {
		return data[:i+1], i + 1, nil
	}
	if len(data) <= limit {
		return nil, 0, nil
	}
	n, err = l.pass(data)
	return nil, n, err
}

// is is what the beginning of a message may be.
type is uint8

const (
	isNot is = iota
	isMaybe
	isSo
)

// begins reports whether data begins with word, in letters of whatever case; isMaybe if there
// are fewer bytes and it may still.
func begins(data []byte, word string) is {
	for i := range min(len(data), len(word)) {
		if upper(data[i]) != word[i] {
			return isNot
		}
	}
	if len(data) < len(word) {
		return isMaybe
	}
	return isSo
}

// firstWord reports whether the word at the beginning of data is one of words, in letters of
// whatever case. It ends at a space, CR or LF; longest is the length of the longest of words.
func firstWord(data []byte, words map[string]bool, longest int) is {
	var word [16]byte
	for i, c := range data {
		switch {
		case c == ' ' || c == '\r' || c == '\n':
			if words[string(word[:i])] {
				return isSo
			}
			return isNot
		case i == longest:
			return isNot
		}
		word[i] = upper(c)
	}
	return isMaybe
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c - 'a' + 'A'
	}
	return c
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// decimal reads the decimal number at the beginning of data, which is at most limit, and
// returns its digits' count: 0 if there is none or it is greater.
func decimal(data []byte, limit uint64) (v uint64, n int) {
	for n < len(data) && digit(data[n]) {
		if v = v*10 + uint64(data[n]-'0'); v > limit {
			return 0, 0
		}
		n++
	}
	return v, n
}
