// leaky.go: a Go server on PORT that keeps LEAK_KIB (default 64) of each request, and LEAK_MIB_PER_SECOND (default 0) besides.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

var (
	lock sync.Mutex
	kept [][]byte
)

func keep(size int) {
	block := bytes.Repeat([]byte{1}, size)
	lock.Lock()
	kept = append(kept, block)
	lock.Unlock()
}

func number(name string, otherwise float64) float64 {
	if value, err := strconv.ParseFloat(os.Getenv(name), 64); err == nil {
		return value
	}
	return otherwise
}

func main() {
	kib, perSecond, port := number("LEAK_KIB", 64), number("LEAK_MIB_PER_SECOND", 0), number("PORT", 8080)
	worker := os.Getenv("CLUSTERINIT_WORKER_ID")
	if worker == "" {
		worker = "null"
	}
	body := fmt.Sprintf("{\"worker\":%s,\"pid\":%d}\n", worker, os.Getpid())
	go func() {
		for perSecond > 0 {
			keep(int(perSecond * 104858))
			time.Sleep(100 * time.Millisecond)
		}
	}()
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		keep(int(kib * 1024))
		answer.Write([]byte(body))
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(fmt.Sprintf(":%.0f", port), nil))
	os.Exit(1)
}
