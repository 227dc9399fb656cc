// A server without any shutdown code, as most are; each worker runs it, and all share the port.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	body := fmt.Sprintf("{\"worker\":%s,\"pid\":%d}\n", setting("CLUSTERINIT_WORKER_ID", "0"), os.Getpid())
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("Content-Type", "application/json")
		fmt.Fprint(answer, body)
	})
	log.Fatal(http.ListenAndServe(":"+setting("PORT", "8080"), nil))
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
