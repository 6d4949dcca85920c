import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface TestBroker {
  /** `amqp://…`, on loopback. */
  url: string
  /** The same with TLS, and the file with the certificate to trust. */
  tls?: { url: string; ca: string }
  /** Ends the broker at once, as a crash would. */
  stop(): Promise<void>
}

/** A RabbitMQ of its own, which is gone with this process at the latest. */
export async function testBroker({ tls = false } = {}): Promise<TestBroker> {
  const folder = await mkdtemp(join(tmpdir(), 'timone-rabbitmq-'))
  const arguments_ = [join(folder, 'broker'), ...(tls ? ['--tls'] : [])]
  const child = spawn('scripts/rabbitmq', arguments_, { stdio: ['pipe', 'pipe', 'inherit'] })
  const exit = once(child, 'exit')
  const found = new Map<string, string>()
  for await (const line of createInterface({ input: child.stdout })) {
    if (line === 'ready') break
    const [name = '', ...value] = line.split('=')
    found.set(name, value.join('='))
  }
  const url = found.get('TIMONE_TEST_AMQP_URL')
  if (url === undefined) throw new Error('RabbitMQ did not start: scripts/rabbitmq says why')
  const secure = found.get('TIMONE_TEST_AMQPS_URL')
  return {
    url,
    ...(secure === undefined ? {} : { tls: { url: secure, ca: found.get('TIMONE_TEST_AMQP_CA') ?? '' } }),
    stop: async () => {
      child.kill('SIGTERM')
      await exit
      await rm(folder, { recursive: true, force: true })
    },
  }
}
