// node-redis: writes numbers to the master that Sentinel names, and says when each was acknowledged.
const { createSentinel } = require("redis");

const [host, port, name] = process.argv.slice(2);
const sentinel = createSentinel({ name, sentinelRootNodes: [{ host, port: Number(port) }] });
sentinel.on("error", (error) => console.error("failed:", error.message));

async function write() {
  await sentinel.connect();
  for (let number = 0; ; ) {
    try {
      await sentinel.set("node-redis", number);
      console.log(Date.now(), number);
      number += 1;
    } catch (error) {
      console.error("failed:", error.message);
    }
    await new Promise((done) => setTimeout(done, 2));
  }
}
write();
