// The usual CONNECT proxy in Go: net/http, Hijack, and one io.Copy for each direction. It attributes, checks and logs
// nothing. benchmarks/proxy.py builds it with every Go that it finds.
package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

func transfer(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	io.Copy(to, from)
}

func handle(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT is measured", http.StatusMethodNotAllowed)
		return
	}
	upstream, err := net.DialTimeout("tcp", r.Host, 10*time.Second)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	// Taken over before the answer is given: otherwise net/http may swallow the tunnel's first byte.
	client, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		upstream.Close()
		return
	}
	io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go transfer(upstream, client)
	go transfer(client, upstream)
}

func main() {
	server := &http.Server{Addr: ":" + os.Args[1], Handler: http.HandlerFunc(handle)}
	log.Fatal(server.ListenAndServe())
}
