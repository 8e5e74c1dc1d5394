// A backend that answers 1 KiB, and misbehaves while files tell it to: `<name>.errors`, `<name>.slow`, `errors`.
"use strict";
const fs = require("fs");
const http = require("http");

const [, , name, address, port] = process.argv;
const body = "x".repeat(1024);

http.createServer((request, response) => {
  request.resume();
  request.on("end", () => {
    if (request.method === "POST") {
      // At once, since it may be killed the next moment.
      fs.appendFileSync(`${name}.posts`, `${request.url}\n`);
    }
    const fails = ["errors", `${name}.errors`].some((file) => fs.existsSync(file)) && Math.random() < 0.3;
    const answer = () => {
      response.writeHead(fails ? 503 : 200, { "content-length": body.length });
      response.end(body);
    };
    if (fs.existsSync(`${name}.slow`)) setTimeout(answer, 2000);
    else answer();
  });
}).listen(Number(port), address);
