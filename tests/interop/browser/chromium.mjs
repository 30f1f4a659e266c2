// Chromium by playwright-core. It is started in one place only, so its flags are here.
import { chromium } from "playwright-core";

// -> {version, newPage(), close()}
export async function launch() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox", // the tests may run as root
      "--use-fake-device-for-media-stream",
      "--use-fake-ui-for-media-stream",
      "--autoplay-policy=no-user-gesture-required",
      "--allow-loopback-in-peer-connection", // the node under test is on 127.0.0.1
      "--disable-background-timer-throttling",
      "--disable-renderer-backgrounding",
      "--disable-backgrounding-occluded-windows",
      "--disable-features=WebRtcHideLocalIpsWithMdns",
    ],
  });
  const context = await browser.newContext({ viewport: { width: 960, height: 640 } });
  return { version: browser.version(), newPage: () => context.newPage(), close: () => browser.close() };
}
