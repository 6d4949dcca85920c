import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Running, startOnFiles } from '../server/harness.ts'

describe.each(['sqlite', 'postgres'] as const)('/users in %s', (kind) => {
  let postgres: TestDatabase | undefined
  let running: Running
  let admin: string
  let reader: string

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    running = await startOnFiles({ database: await connect(postgres?.url ?? 'sqlite::memory:') })
    admin = await running.as('root', 'users:*:rw')
    reader = await running.as('rita', 'users:*:r')
  })
  afterAll(async () => {
    await running.stop()
    await postgres?.drop()
  })

  const ask = async (
    method: string,
    path: string,
    {
      body,
      as = admin,
      headers = {},
    }: { body?: unknown; as?: string; headers?: Record<string, string> } = {},
  ) => {
    const type = method === 'PATCH' ? 'application/json-patch+json' : 'application/json'
    const response = await fetch(`${running.url}${path}`, {
      method,
      headers: { ...(as === '' ? {} : { authorization: as }), 'content-type': type, ...headers },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    return {
      status: response.status,
      headers: response.headers,
      json: text === '' ? undefined : JSON.parse(text),
    }
  }
  let count = 0
  const make = async (name = 'Ada') => {
    const number = ++count
    const body = { name, email: `u${number}@example.com`, services: { github: { id: String(900 + number) } } }
    const made = await ask('POST', '/users', { body })
    expect(made.status).toBe(201)
    expect(made.headers.get('location')).toBe(`/users/${made.json.id}`)
    return made.json as { id: number; email: string }
  }

  describe.each([
    ['SQL', "x'); DROP TABLE users; --"],
    ['a header', 'x\r\nSet-Cookie: evil=1'],
  ])('%s in a text field', (_, hostile) => {
    const good = () => {
      const number = ++count
      return {
        name: 'Ada',
        email: `u${number}@example.com`,
        picture_url: 'https://example.com/a.png',
        services: { github: { id: String(900 + number), access_token: 'gho_1' } },
      }
    }
    test.each([
      ['name', (text: string) => ({ ...good(), name: text })],
      ['email', (text: string) => ({ ...good(), email: `${text}@example.com` })],
      ['picture_url', (text: string) => ({ ...good(), picture_url: `https://example.com/${text}` })],
      ['github id', (text: string) => ({ ...good(), services: { github: { id: text } } })],
      [
        'access token',
        (text: string) => ({ ...good(), services: { github: { id: '1', access_token: text } } }),
      ],
    ])('%s: kept as it is or refused, and nothing more', async (field, body) => {
      const made = await ask('POST', '/users', { body: body(hostile) })
      expect([201, 400]).toContain(made.status)
      if (made.status === 201 && field === 'name') expect(made.json.name).toBe(hostile)
      if (hostile.includes('\r')) expect(made.status).toBe(400)
      expect(made.headers.get('set-cookie')).toBeNull()
      const listed = await ask('GET', `/users?${new URLSearchParams({ name: hostile, email: hostile })}`)
      expect([200, 400]).toContain(listed.status)
      expect(listed.headers.get('set-cookie')).toBeNull()
      expect(await make()).toMatchObject({ name: 'Ada' })
    })
  })

  test('a user is made, shown, changed and removed', async () => {
    const { id, email } = await make()
    const number = email.slice(1, email.indexOf('@'))
    const shown = {
      id,
      name: 'Ada',
      email,
      picture_url: null,
      services: { github: { id: String(900 + Number(number)) } },
    }
    expect(await ask('GET', `/users/${id}`, { as: reader })).toMatchObject({ status: 200, json: shown })
    const ops = [
      { op: 'test', path: '/services/github/id', value: shown.services.github.id },
      { op: 'replace', path: '/picture_url', value: 'https://example.com/a.png' },
      { op: 'add', path: '/services/facebook', value: { id: `77${id}` } },
    ]
    expect(await ask('PATCH', `/users/${id}`, { body: ops })).toMatchObject({
      status: 200,
      json: {
        ...shown,
        picture_url: 'https://example.com/a.png',
        services: { ...shown.services, facebook: { id: `77${id}` } },
      },
    })
    expect((await ask('DELETE', `/users/${id}`)).status).toBe(204)
    expect((await ask('GET', `/users/${id}`)).status).toBe(404)
  })

  test('pages follow one another by Link, and keep their filter', async () => {
    for (let number = 0; number < 5; number++) await make(`Paged ${number}`)
    const names: string[] = []
    let path: string | undefined = '/users?name=paged&page_size=2'
    let pages = 0
    while (path !== undefined) {
      const { json, headers } = await ask('GET', path, { as: reader })
      names.push(...json.map(({ name }: { name: string }) => name))
      path = /^<([^>]+)>; rel="next"$/.exec(headers.get('link') ?? '')?.[1]
      pages++
    }
    expect(pages).toBe(3)
    expect(names).toEqual(['Paged 0', 'Paged 1', 'Paged 2', 'Paged 3', 'Paged 4'])
  })

  test('the scope decides', async () => {
    const { id } = await make()
    const body = [{ op: 'replace', path: '/name', value: 'x' }]
    expect((await ask('GET', '/users', { as: '' })).status).toBe(401)
    for (const as of [await running.as('ada'), await running.as('ada', 'full')]) {
      expect((await ask('GET', '/users', { as })).status).toBe(403)
    }
    expect((await ask('PATCH', `/users/${id}`, { as: reader, body })).status).toBe(403)
    expect((await ask('DELETE', `/users/${id}`, { as: reader })).status).toBe(403)
    expect((await ask('POST', '/users', { as: reader, body: {} })).status).toBe(403)
    const own = await running.as('ada', `users:${id}:rw`)
    expect((await ask('PATCH', `/users/${id}`, { as: own, body })).status).toBe(200)
    expect((await ask('GET', '/users', { as: own })).status).toBe(403)
  })

  test('what is wrong with a request is said by its status', async () => {
    const [one, other] = [await make(), await make()]
    const post = async (body: unknown) => (await ask('POST', '/users', { body })).status
    const patch = async (body: unknown) => (await ask('PATCH', `/users/${one.id}`, { body })).status
    expect(await post('not json')).toBe(400)
    expect(await post({ name: 'a' })).toBe(400)
    expect(await post({ name: 'a\r\nb', email: 'q@example.com', services: { github: { id: '1' } } })).toBe(
      400,
    )
    expect(await post({ name: 'a', email: one.email, services: { github: { id: '1' } } })).toBe(409)
    expect(await patch('[')).toBe(400)
    expect(await patch({})).toBe(400)
    expect(await patch([{ op: 'test', path: '/name', value: 'x' }])).toBe(409)
    expect(await patch([{ op: 'replace', path: '/id', value: 1 }])).toBe(409)
    expect(await patch([{ op: 'add', path: '/__proto__/x', value: 1 }])).toBe(409)
    expect(await patch([{ op: 'replace', path: '/email', value: other.email }])).toBe(409)
    expect(await patch([{ op: 'remove', path: '/name' }])).toBe(422)
    const plain = await ask('PATCH', `/users/${one.id}`, {
      body: [],
      headers: { 'content-type': 'application/json' },
    })
    expect(plain.status).toBe(415)
    expect(plain.headers.get('accept-patch')).toBe('application/json-patch+json')
    for (const id of ['x', '0', '-1', '1.5', '99999999999', "1'--"]) {
      expect((await ask('GET', `/users/${encodeURIComponent(id)}`)).status).toBe(404)
    }
    expect((await ask('GET', '/users?page_size=0')).status).toBe(400)
    expect((await ask('GET', '/users?admin=1')).status).toBe(400)
    expect((await ask('GET', '/users', { headers: { accept: 'text/html' } })).status).toBe(406)
  })
})
