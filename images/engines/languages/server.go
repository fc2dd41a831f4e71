// A server of Go's own runtime: goroutines, timers, a collector, a child. It says what it is asked, and how often it ticked.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"time"
)

func main() {
	var ticks atomic.Int64
	go func() {
		for range time.Tick(20 * time.Millisecond) {
			ticks.Add(1)
		}
	}()
	for range 100 {
		go func() {
			for {
				time.Sleep(time.Millisecond)
				_ = make([]byte, 10000)
			}
		}()
	}
	child := exec.Command("sleep", "1000")
	if err := child.Start(); err != nil {
		panic(err)
	}
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		runtime.GC()
		fmt.Fprintf(w, "%d %d", child.Process.Pid, ticks.Load())
	})
	http.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile("/etc/debian_version")
		if err != nil {
			panic(err)
		}
		io.WriteString(w, string(data))
	})
	panic(http.ListenAndServe("0.0.0.0:8000", nil))
}
