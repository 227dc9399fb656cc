// A static Go server, as people write them: server ADDRESS [graceful] [wait=4ms] [log=FILE]
//
// graceful: at TERM it answers what is open and ends with 0; else it has no shutdown code at all. wait: how long an answer takes.
// log: the number in ?id=N of each request is noted when its handler begins, for clients that want to know what was begun.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	var wait time.Duration
	var graceful bool
	var log *os.File
	for _, word := range os.Args[2:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "graceful":
			graceful = true
		case "wait":
			wait = must(time.ParseDuration(value))
		case "log":
			log = must(os.OpenFile(value, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666))
		default:
			panic("what is " + word + "?")
		}
	}
	worker := os.Getenv("CLUSTERINIT_WORKER_ID")
	if worker == "" {
		worker = "null"
	}
	body := fmt.Sprintf("{\"worker\":%s,\"pid\":%d}\n", worker, os.Getpid())
	server := &http.Server{Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if log != nil {
			fmt.Fprintln(log, request.URL.Query().Get("id"))
		}
		time.Sleep(wait)
		answer.Write([]byte(body))
	})}
	listener := must(net.Listen("tcp", os.Args[1]))
	if !graceful {
		panic(server.Serve(listener))
	}
	done := make(chan struct{})
	go func() {
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		<-term
		server.Shutdown(context.Background())
		close(done)
	}()
	server.Serve(listener)
	<-done
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}
