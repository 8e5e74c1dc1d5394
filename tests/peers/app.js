// A Node app that tells what it saw: the request as JSON, the body by its length and SHA-256.
"use strict";
const http = require("http");
const crypto = require("crypto");

const server = http.createServer((request, response) => {
  const hash = crypto.createHash("sha256");
  let length = 0;
  request.on("data", (part) => { hash.update(part); length += part.length; });
  request.on("end", () => {
    const seen = JSON.stringify({
      server: "node",
      method: request.method,
      url: request.url,
      version: request.httpVersion,
      headers: request.headers,
      length,
      sha256: hash.digest("hex"),
    }) + "\n";
    response.setHeader("content-type", "application/json");
    if (request.url.startsWith("/pieces")) {
      // In chunks, since no length is told.
      for (const piece of seen.match(/.{1,16}|\n/g)) response.write(piece);
      response.end();
    } else {
      response.setHeader("content-length", Buffer.byteLength(seen));
      response.end(seen);
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(`port ${server.address().port}`));
