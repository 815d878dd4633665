// ioredis: writes numbers to the master that Sentinel names, and says when each was acknowledged.
const Redis = require("ioredis");

const [host, port, name] = process.argv.slice(2);
const redis = new Redis({ sentinels: [{ host, port: Number(port) }], name, failoverDetector: true });
redis.on("error", (error) => console.error("failed:", error.message));
// It gives up for good when +switch-master comes while it asks a Sentinel for the master: see connect() of its
// SentinelConnector, which throws then.
redis.on("end", () => redis.connect().catch(() => {}));

async function write() {
  for (let number = 0; ; ) {
    try {
      await redis.set("ioredis", number);
      console.log(Date.now(), number);
      number += 1;
    } catch (error) {
      console.error("failed:", error.message);
    }
    await new Promise((done) => setTimeout(done, 2));
  }
}
write();
