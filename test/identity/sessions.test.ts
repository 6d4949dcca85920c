import { html } from 'hono/html'
import { describe, expect, test } from 'vitest'
import { readCookie } from '../../src/identity/cookies.ts'
import { page } from '../../src/identity/page.ts'
import { checkCsrf, Sessions } from '../../src/identity/sessions.ts'
import { Users } from '../../src/identity/users.ts'
import { onEachDatabase } from './databases.ts'

const from = { source: '192.0.2.7', client: 'Test\n/1.0' }

onEachDatabase('sessions', (db) => {
  test('start, of, end', async () => {
    const sessions = new Sessions({ db: db(), url: 'https://timone.example' })
    const user = await new Users(db()).add({ login: 'eve' }, '')
    const { cookie, session } = await sessions.start(user.id, from)
    expect(cookie).toMatch(
      /^__Host-timone=tmo_[\w-]{43}; Path=\/; Max-Age=43200; HttpOnly; SameSite=Lax; Secure$/,
    )
    const header = cookie.split(';')[0] as string
    expect(await sessions.of({ cookie: `a=b; ${header}` })).toEqual(session)
    expect(session.user).toEqual(user)
    for (const odd of [undefined, '', `${header}x`, header.replace('__Host-', ''), `${header}; ${header}`])
      expect(await sessions.of({ cookie: odd })).toBeUndefined()
    checkCsrf(session, session.csrf)
    for (const odd of [undefined, '', 7, `${session.csrf}x`, session.csrf.replace(/./, '_')])
      expect(() => checkCsrf(session, odd)).toThrow(/out of date/)
    const other = await sessions.start(user.id, from)
    expect(() => checkCsrf(other.session, session.csrf)).toThrow(/out of date/)
    expect((await sessions.end(session.id)).cookie).toContain('Max-Age=0')
    expect(await sessions.of({ cookie: header })).toBeUndefined()
    expect(await sessions.of({ cookie: other.cookie.split(';')[0] })).toBeDefined()
  })

  test('over plain http the cookie has another name; a disabled user has no session', async () => {
    const sessions = new Sessions({ db: db(), url: 'http://127.0.0.1:8000' })
    const user = await new Users(db()).add({ login: 'fay' }, '')
    const { cookie } = await sessions.start(user.id, from)
    expect(cookie).toMatch(/^timone-session=/)
    expect(cookie).not.toContain('Secure')
    await new Users(db()).setDisabled('fay', true, '')
    expect(await sessions.of({ cookie: cookie.split(';')[0] })).toBeUndefined()
    await expect(sessions.start(user.id, from)).rejects.toMatchObject({ code: 'forbidden' })
  })
})

describe('pages', () => {
  test('escape what is put in, and forbid scripts and frames', async () => {
    const answer = await page({ title: '<b>', body: html`<p>${'<script>'}</p>`, status: 201 })
    const text = await answer.text()
    expect(answer.status).toBe(201)
    expect(text).toContain('<p>&lt;script&gt;</p>')
    expect(text).toContain('<h1>&lt;b&gt;</h1>')
    const policy = answer.headers.get('content-security-policy')
    expect(policy).toContain("default-src 'none'")
    expect(policy).toContain("frame-ancestors 'none'")
    expect(policy).toContain("form-action 'self'")
    expect(answer.headers.get('x-frame-options')).toBe('DENY')
    expect(answer.headers.get('cache-control')).toBe('no-store')
    expect(answer.headers.get('referrer-policy')).toBe('same-origin')
  })

  test('a cookie that is there twice is nobody’s', () => {
    expect(readCookie('a=1; b=2', 'b')).toBe('2')
    expect(readCookie('b=1; b=2', 'b')).toBeUndefined()
    expect(readCookie('xb=1', 'b')).toBeUndefined()
  })
})
