// A server of Node.js: its event loop, its thread pool, a worker thread, a child, a watched directory.
const fs = require('fs')
const http = require('http')
const {spawn} = require('child_process')
const {Worker} = require('worker_threads')

let ticks = 0
setInterval(() => ticks++, 20)
const worker = new Worker('require("worker_threads").parentPort.on("message", n => require("worker_threads").parentPort.postMessage(n + 1))', {eval: true})
const child = spawn('sleep', ['1000'])
fs.watch('/tmp', () => {})

http.createServer((request, response) => {
  if (request.url === '/file') {
    fs.promises.readFile('/etc/debian_version', 'utf8').then(text => response.end(text))
  } else {
    worker.once('message', n => response.end(`${child.pid} ${ticks} ${n}`))
    worker.postMessage(1)
  }
}).listen(8000, '0.0.0.0')
