import { type Browser, type BrowserContext, chromium, type Page, type Response } from 'playwright-core'

export interface TestBrowser {
  /** A page of a browser that has been nowhere before: no cookies, no storage. `javaScript: false`: as it says. */
  fresh(options?: { javaScript?: boolean }): Promise<Page>
  close(): Promise<void>
}

/** Debian's Chromium, without a window. Tests that need it fail without it. */
export async function startBrowser(): Promise<TestBrowser> {
  const browser: Browser = await chromium.launch({
    executablePath: process.env.TIMONE_TEST_CHROMIUM ?? '/usr/bin/chromium',
    args: [
      // Its sandbox does not work for root, or in most containers.
      ...['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu'],
      // Nobody else is asked: pages of oidc-provider want a font from the Internet, and wait for the name for 5 s.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1, EXCLUDE ::1',
    ],
  })
  const contexts: BrowserContext[] = []
  return {
    fresh: async ({ javaScript = true } = {}) => {
      const context = await browser.newContext({ javaScriptEnabled: javaScript })
      context.setDefaultTimeout(20_000)
      contexts.push(context)
      return context.newPage()
    },
    close: async () => {
      for (const context of contexts) await context.close()
      await browser.close()
    },
  }
}

/** Loads a page again. `Page.reload` of Chromium fails while the page before this one is still being taken down. */
export function loadAgain(page: Page): Promise<Response | null> {
  return page.goto(page.url())
}
