/**
 * `clipctl report`: the reads and fetches of one mount as a page for a browser, and what to do about them. browser/ is the page's own
 * program and style, which the build puts with uPlot into one file, report.html. Runs in the client.
 */
export { type JourneySummary, summaryOf } from './advice.js';
export { findJourney } from './find-journey.js';
export { journeyPage } from './page.js';
