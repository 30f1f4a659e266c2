// Drives one browser for the interop tests, `node driver.mjs chromium|firefox`: reads one JSON command a line on
// standard input, answers one JSON line each, ends (browser included) when standard input ends, so that a test that
// dies leaves nothing behind.
//
//   {"id":1,"op":"call","page":"a","name":"publish","args":{...}}   a function of client.js, in a page of that name
//   {"id":2,"op":"goto","page":"b","url":"..."}                     any page, for the node's own ones
//   {"id":3,"op":"eval","page":"b","script":"document.title"}       an expression in a page
//   {"id":4,"op":"screenshot","page":"b","path":"..."}   {"id":5,"op":"close","page":"b"}
import http from "node:http";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";

const here = new URL(".", import.meta.url);

// The test page has an origin of its own, so that every request to the node is a cross-origin one and CORS is
// tested by each test. 127.0.0.1 is a secure context: cameras work.
const site = http.createServer(async (request, response) => {
  const script = request.url === "/client.js";
  response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
  response.end(script ? await readFile(new URL("client.js", here))
    : `<!doctype html><meta charset="utf-8"><title>Millrace interop</title><script src="/client.js"></script>`);
});
await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
const origin = `http://127.0.0.1:${site.address().port}`;

const { launch } = await import(`./${process.argv[2]}.mjs`);
const browser = await launch();
const pages = new Map();

async function page(name) {
  if (pages.has(name)) return pages.get(name);
  const opened = await browser.newPage();
  opened.messages = [];
  const note = (text) => opened.messages.push(String(text).slice(0, 500));
  opened.on("console", (message) => ["error", "warning", "warn"].includes(message.type()) && note(`${message.text()} ${message.location()?.url ?? ""}`));
  opened.on("pageerror", (error) => note(error.message));
  pages.set(name, opened);
  return opened;
}

const operations = {
  async call({ page: name, name: fn, args }) {
    const opened = await page(name);
    if (!opened.url().startsWith(origin)) await opened.goto(origin);
    return opened.evaluate(([fn, args]) => window.interop[fn](args), [fn, args ?? {}]);
  },
  async goto({ page: name, url }) {
    const response = await (await page(name)).goto(url);
    return { status: response.status() };
  },
  async eval({ page: name, script }) {
    return (await page(name)).evaluate(script);
  },
  async messages({ page: name }) {
    return (await page(name)).messages;
  },
  async screenshot({ page: name, path }) {
    await (await page(name)).screenshot({ path });
    return null;
  },
  async close({ page: name }) {
    await (await page(name)).close();
    pages.delete(name);
    return null;
  },
};

const answer = (line) => process.stdout.write(JSON.stringify(line) + "\n");
answer({ id: 0, ok: { version: browser.version, origin } });

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  operations[command.op](command)
    .then((ok) => answer({ id: command.id, ok: ok ?? null }))
    .catch((error) => answer({ id: command.id, error: String(error?.message ?? error) }));
}
await browser.close();
site.close();
process.exit(0);
