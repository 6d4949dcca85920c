import type { SecretBox } from '../auth/secret-box.ts'
import type { ServerSettings } from '../config/server-settings.ts'
import type { Database } from '../database/connect.ts'
import { isTimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { errorFields } from '../server/logger.ts'
import type { ServeIo } from './serve.ts'

/** The answers to the message broker, and the notifications; does nothing where no broker is set. */
export interface IdentService {
  /** Users were changed elsewhere in this process. */
  changed(): void
  close(): Promise<void>
}

interface IdentServiceOptions {
  settings: Pick<ServerSettings, 'amqp'>
  database: Pick<Database, 'db'>
  box: SecretBox
  logger: Logger
  /** Called once, when the broker is lost. */
  lost: (error: unknown) => void
}

/**
 * Connects to the broker of the settings. Undefined when it cannot be reached, which has then been said.
 * @throws {TimoneError} `config`
 */
export async function startIdent(
  options: IdentServiceOptions,
  io: ServeIo,
): Promise<IdentService | undefined> {
  const { settings, database, box, logger, lost } = options
  if (settings.amqp === undefined) return { changed: () => {}, close: async () => {} }
  // Loaded only where they are used.
  const [{ startAmqp }, { Ident }, { createRpc }, { Outbox }] = await Promise.all([
    import('../identity/amqp.ts'),
    import('../identity/ident.ts'),
    import('../identity/ident-rpc.ts'),
    import('../identity/outbox.ts'),
  ])
  let outbox: InstanceType<typeof Outbox> | undefined
  const ident = new Ident({ db: database.db, box, changed: () => outbox?.nudge() })
  const report = (message: string) => (error: unknown) => logger.error(errorFields(error), message)
  const answer = createRpc({
    ident,
    exposeTokens: settings.amqp.exposeTokens,
    report: report('a request from the message broker failed'),
  })
  try {
    const amqp = await startAmqp({ settings: settings.amqp, answer, lost, logger })
    const publish = amqp.publish.bind(amqp)
    outbox = new Outbox({ db: database.db, publish, report: report('notifications are not sent yet') })
    logger.info({ host: new URL(settings.amqp.url).host }, 'answers requests from the message broker')
    return {
      changed: () => outbox?.nudge(),
      close: async () => {
        await amqp.drain()
        await outbox?.stop()
        await amqp.close()
      },
    }
  } catch (error) {
    if (!isTimoneError(error, 'unavailable')) throw error
    io.stderr.write(`timone: ${error.message}\n`)
    return undefined
  }
}
