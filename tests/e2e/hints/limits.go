// Prints what Go makes of GOMEMLIMIT and GOMAXPROCS: bytes (math.MaxInt64 where there is no limit) and a number.
package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

func main() {
	fmt.Println(debug.SetMemoryLimit(-1), runtime.GOMAXPROCS(0))
}
