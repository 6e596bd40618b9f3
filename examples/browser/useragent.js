// describe names the browser and the system of a User-Agent for people: "Firefox on Windows". Browsers name each other
// in their User-Agents, so the order counts. Of an unknown User-Agent it returns the beginning.
const browsers = [
  ["Edg(?:e|A|iOS)?", "Edge"],
  ["OPR", "Opera"],
  ["SamsungBrowser", "Samsung Internet"],
  ["Firefox|FxiOS", "Firefox"],
  ["Chrome|CriOS|HeadlessChrome", "Chrome"],
  ["Version", "Safari"], // only Safari writes Version/ before Safari/
];
const systems = [
  ["iPhone", "iPhone"],
  ["iPad", "iPad"],
  ["Android", "Android"],
  ["Windows", "Windows"],
  ["Mac OS X", "Mac"],
  ["CrOS", "ChromeOS"],
  ["Linux", "Linux"],
];

export function describe(userAgent) {
  if (!userAgent) return "Unknown device";
  const browser = browsers.find(([token]) => new RegExp(`\\b(?:${token})/`).test(userAgent))?.[1];
  const system = systems.find(([token]) => userAgent.includes(token))?.[1];
  if (browser && system) return `${browser} on ${system}`;
  return browser ?? system ?? userAgent.split(/[ /]/)[0].slice(0, 40);
}
