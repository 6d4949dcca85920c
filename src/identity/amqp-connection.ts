import { readFile } from 'node:fs/promises'
import amqplib, { type ChannelModel } from 'amqplib'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'

/** Where the message broker is. */
export interface AmqpSettings {
  /** `amqp://USER:PASSWORD@HOST:PORT/VHOST`, or `amqps://` for TLS. */
  readonly url: string
  /** How the password is sent (SASL). */
  readonly mechanism: 'PLAIN' | 'AMQPLAIN'
  /** File with the certificates that TLS trusts; undefined: those of Node.js. */
  readonly ca?: string
  /** Requests that are worked on at once. */
  readonly prefetch: number
}

/** Milliseconds for the whole of connecting. */
const PATIENCE = 8_000
/** Seconds between signs of life; the connection counts as lost after two without one. */
const HEARTBEAT = 4

/**
 * Connects to the broker.
 * @throws {TimoneError} `unavailable` when it cannot be reached or does not let us in, `config` for a file that cannot
 *   be read; never with the password in it
 */
export async function connectAmqp(settings: AmqpSettings): Promise<ChannelModel> {
  const url = new URL(settings.url)
  const secure = url.protocol === 'amqps:'
  const [user, password] = [decodeURIComponent(url.username), decodeURIComponent(url.password)]
  const credentials =
    settings.mechanism === 'AMQPLAIN'
      ? amqplib.credentials.amqplain(user, password)
      : amqplib.credentials.plain(user, password)
  const ca = secure && settings.ca !== undefined ? await readCa(settings.ca) : undefined
  const connecting = amqplib.connect(
    {
      protocol: secure ? 'amqps' : 'amqp',
      hostname: url.hostname.replace(/^\[|\]$/g, ''),
      port: url.port === '' ? (secure ? 5671 : 5672) : Number(url.port),
      vhost: url.pathname.length > 1 ? url.pathname.slice(1) : '/',
      heartbeat: HEARTBEAT,
    },
    { credentials, timeout: PATIENCE, noDelay: true, keepAlive: true, ...(ca === undefined ? {} : { ca }) },
  )
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TimoneError('unavailable', 'it does not answer')), PATIENCE)
  })
  try {
    return await Promise.race([connecting, late])
  } catch (error) {
    // Should it come after all, nobody waits for it.
    connecting.then(
      (connection) => connection.close().catch(() => {}),
      () => {},
    )
    throw new TimoneError(
      'unavailable',
      `the message broker at ${url.host} cannot be used: ${reasonOf(error)}`,
      {
        cause: error,
      },
    )
  } finally {
    clearTimeout(timer)
  }
}

async function readCa(file: string): Promise<Buffer> {
  try {
    return await readFile(file)
  } catch (error) {
    throw new TimoneError(
      'config',
      `cannot read the certificates in ${file} (${systemCode(error)}): see amqp.ca`,
    )
  }
}

function reasonOf(error: unknown): string {
  if (isTimoneError(error)) return error.message
  const message = error instanceof Error ? error.message : ''
  if (/ACCESS.REFUSED/i.test(message)) return 'it refused user name or password'
  if (/NOT.ALLOWED/i.test(message)) return 'it has no such virtual host, or does not let this user into it'
  return systemCode(error) ?? 'it closed the connection'
}
