// Firefox as Debian ships it, by puppeteer-core and WebDriver BiDi: playwright drives only builds of its own.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import puppeteer from "puppeteer-core";

// -> {version, newPage(), close()}
export async function launch() {
  const profile = await mkdtemp(join(tmpdir(), "millrace-firefox-"));
  const browser = await puppeteer.launch({
    userDataDir: profile,
    browser: "firefox",
    executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
    headless: true,
    defaultViewport: { width: 960, height: 640 },
    extraPrefsFirefox: {
      // cameras on a plain http:// page of the node, without a person who allows them
      "media.devices.insecure.enabled": true,
      "media.getusermedia.insecure.enabled": true,
      "media.navigator.streams.fake": true,
      "media.navigator.permission.disabled": true,
      "media.autoplay.default": 0,
      "media.autoplay.blocking_policy": 0,
      "media.peerconnection.ice.obfuscate_host_addresses": false,
      // H.264 for WebRTC would be a download, there or not there by chance
      "media.gmp-manager.updateEnabled": false,
      "media.gmp-gmpopenh264.enabled": false,
      // a page that is not in front works on
      "dom.min_background_timeout_value": 4,
      "dom.timeout.enable_budget_timer_throttling": false,
    },
  });
  const child = browser.process();
  const ended = new Promise((resolve) => child.once("exit", resolve));
  return {
    version: await browser.version(),
    newPage: () => browser.newPage(),
    async close() {
      // It may take long over its farewells to a network that leads nowhere, and nothing of it is worth keeping.
      child.kill("SIGKILL");
      await ended;
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
