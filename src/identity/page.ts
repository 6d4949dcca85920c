import { createHash } from 'node:crypto'
import { html, raw } from 'hono/html'
import type { HtmlEscapedString } from 'hono/utils/html'

export interface PageOptions {
  title: string
  body: HtmlEscapedString | Promise<HtmlEscapedString>
  status?: number
  /** Address that the browser goes on to at once. */
  refresh?: string
  /** Origins besides our own that a form's answer may redirect to. */
  formTargets?: readonly string[]
  headers?: Readonly<Record<string, string>>
}

const STYLE = `
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
article { border-top: 1px solid #8886; padding: .5rem 0; }
code { font-size: 1.1em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .5rem .3rem 0; vertical-align: top; }
input[type=text] { font: inherit; padding: .5rem; width: 100%; box-sizing: border-box; }
button { font: inherit; padding: .5rem 1.2rem; margin: .5rem .5rem .5rem 0; }
`

const STYLE_HASH = createHash('sha256').update(STYLE).digest('base64')

/** A page for people: no JavaScript, nothing from elsewhere, never inside another page. */
export async function page(options: PageOptions): Promise<Response> {
  const { title, body, status = 200, refresh, formTargets = [], headers = {} } = options
  // The style must be byte for byte what was hashed, so no white space around it.
  const text = html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
${refresh === undefined ? '' : html`<meta http-equiv="refresh" content="0; url=${refresh}">`}<title>${title} · timone</title><style>${raw(STYLE)}</style></head>
<body><main><h1>${title}</h1>${await body}</main></body></html>
`
  return new Response(String(await text), {
    status,
    headers: {
      'Content-Type': 'text/html; charset=utf-8',
      'Content-Security-Policy': [
        "default-src 'none'",
        `style-src 'sha256-${STYLE_HASH}'`,
        `form-action ${["'self'", ...formTargets].join(' ')}`,
        "frame-ancestors 'none'",
        "base-uri 'none'",
      ].join('; '),
      'X-Frame-Options': 'DENY',
      'X-Content-Type-Options': 'nosniff',
      'Referrer-Policy': 'same-origin',
      'Cache-Control': 'no-store',
      ...headers,
    },
  })
}
