import { parse, type TomlTable } from 'smol-toml'
import { z } from 'zod'
import { TimoneError } from '../errors.ts'
import type { SettingKey } from './settings-table.ts'

const text = z.string().optional()
const port = z.int().min(1).max(65_535).optional()
/** As glotpod.ident documents it, with its defaults. */
const file = z.strictObject({
  database: z.strictObject({
    encryption_key: z.string().min(1),
    postgres: z.strictObject({ host: text, port, database: text, user: text, password: text }).prefault({}),
  }),
  amqp: z
    .strictObject({
      ssl: z.boolean().optional(),
      host: text,
      port,
      login: text,
      password: text,
      login_method: z.enum(['AMQPLAIN', 'PLAIN']).optional(),
      // Of AMQP 0-8, where it asked a broker not to send clients elsewhere.
      insist: z.boolean().optional(),
    })
    .prefault({}),
})

/**
 * The settings in a file of glotpod.ident (`GLOTPOD_IDENT_SETTINGS`), each as the text that ours would be.
 * @param name of the file, for messages
 * @throws {TimoneError} `config`; never with a value, which may be a secret
 */
export function readIdentSettings(content: string, name: string): Map<SettingKey, string> {
  let table: TomlTable
  try {
    table = parse(content)
  } catch {
    throw new TimoneError('config', `${name}: not valid TOML`)
  }
  const { success, data, error } = file.safeParse(table)
  if (!success) {
    const where = error.issues[0]?.path.map(String).join('.') ?? ''
    throw new TimoneError(
      'config',
      `${name}: ${where === '' ? 'unknown setting' : `${where} is missing or wrong`}`,
    )
  }
  const { postgres, encryption_key } = data.database
  const { amqp } = data
  const database = address('postgres', {
    host: postgres.host ?? 'localhost',
    port: postgres.port ?? 5432,
    user: postgres.user ?? 'glotpod.ident',
    password: postgres.password,
    path: postgres.database ?? 'glotpod.ident',
  })
  const ssl = amqp.ssl ?? false
  const broker = address(ssl ? 'amqps' : 'amqp', {
    host: amqp.host ?? 'localhost',
    port: amqp.port ?? (ssl ? 5671 : 5672),
    user: amqp.login ?? 'guest',
    password: amqp.password ?? 'guest',
    path: '',
  })
  return new Map([
    ['secrets.keys', encryption_key],
    ['database.url', database],
    ['amqp.url', broker],
    ['amqp.mechanism', amqp.login_method ?? 'AMQPLAIN'],
  ])
}

interface Place {
  host: string
  port: number
  user: string
  password: string | undefined
  path: string
}

function address(scheme: string, { host, port, user, password, path }: Place): string {
  const name = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
  const word = password === undefined ? '' : `:${encodeURIComponent(password)}`
  return `${scheme}://${encodeURIComponent(user)}${word}@${name}:${port}${path === '' ? '' : `/${encodeURIComponent(path)}`}`
}
