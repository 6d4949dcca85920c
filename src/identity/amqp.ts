import type { Channel, ChannelModel, ConfirmChannel, ConsumeMessage } from 'amqplib'
import { TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { type AmqpSettings, connectAmqp } from './amqp-connection.ts'
import { encodeBody, MAX_REQUEST } from './amqp-wire.ts'
import type { RpcAnswer, RpcRequest } from './ident-rpc.ts'

/** Names that callers know. */
const EXCHANGE = 'amq.topic'
const QUEUE = 'glotpod.rpc/ident'
const BINDING = 'rpc.user.#'
/** Where requests go that nobody could read or carry out, for people to look at. */
const DEAD_QUEUE = 'glotpod.rpc/ident.dead'
/** Ten thousand of them, for two weeks. */
const DEAD_LIMITS = { 'x-max-length': 10_000, 'x-message-ttl': 14 * 24 * 3600 * 1000 }

/** Answers that say that something is wrong with a request or with us, not with what was asked. */
const DEAD: ReadonlySet<string> = new Set(['decode_error', 'operation_not_found', 'invocation_failed'])
/** Milliseconds before a request that could not be carried out is given back. */
const PAUSE = 500
/** Milliseconds that requests under way may take at the end. */
const DRAIN = 10_000
/** And that the broker may take to say goodbye. */
const CLOSE = 2_000

export interface AmqpServiceOptions {
  settings: AmqpSettings
  answer: (request: RpcRequest) => Promise<RpcAnswer>
  /** Called once, when the broker is gone or no longer sends us anything. */
  lost: (error: unknown) => void
  logger: Logger
}

/** Answers requests from the broker, and publishes notifications. */
export interface AmqpService {
  /** Resolves when the broker has the message. @throws {TimoneError} `unavailable` */
  publish(routingKey: string, body: Buffer, contentType: string): Promise<void>
  /** Takes no more requests, and lets those under way end. */
  drain(): Promise<void>
  /** Drains, and closes the connection. Nothing can be published any more. */
  close(): Promise<void>
}

/**
 * Begins to answer what comes into the queue, which all instances share.
 * @throws {TimoneError} `unavailable`, `config`
 */
export async function startAmqp(options: AmqpServiceOptions): Promise<AmqpService> {
  const connection = await connectAmqp(options.settings)
  const consumer = new Consumer(connection, options)
  try {
    await consumer.start()
  } catch (error) {
    await connection.close().catch(() => {})
    const reason = error instanceof Error ? error.message : 'unknown reason'
    throw new TimoneError('unavailable', `the message broker does not give us our queue: ${reason}`, {
      cause: error,
    })
  }
  return {
    publish: (key, body, contentType) =>
      consumer.send(EXCHANGE, key, body, { contentType, persistent: true }),
    drain: () => consumer.drain(),
    close: () => consumer.close(),
  }
}

class Consumer {
  readonly #connection: ChannelModel
  readonly #options: AmqpServiceOptions
  readonly #underWay = new Set<Promise<void>>()
  #requests: Channel | undefined
  #sender: Promise<ConfirmChannel> | undefined
  #tag = ''
  #ended = false

  constructor(connection: ChannelModel, options: AmqpServiceOptions) {
    this.#connection = connection
    this.#options = options
    let reason: unknown
    connection.on('error', (error) => {
      reason = error
    })
    connection.on('close', (error) => this.#lose(reason ?? error))
    connection.on('blocked', () => options.logger.warn({}, 'the message broker is full and takes nothing'))
  }

  async start(): Promise<void> {
    const channel = await this.#connection.createChannel()
    this.#requests = channel
    channel.on('error', (error) => this.#lose(error))
    channel.on('close', () => this.#lose(undefined))
    await channel.checkExchange(EXCHANGE)
    await channel.assertQueue(QUEUE, { durable: true })
    await channel.bindQueue(QUEUE, EXCHANGE, BINDING)
    await channel.assertQueue(DEAD_QUEUE, { durable: true, arguments: DEAD_LIMITS })
    await channel.prefetch(this.#options.settings.prefetch)
    const { consumerTag } = await channel.consume(QUEUE, (message) => {
      // The queue was removed, or its node went away: nothing would come any more.
      if (message === null) return this.#lose(undefined)
      const work = this.#handle(channel, message).catch((error: unknown) => this.#lose(error))
      this.#underWay.add(work)
      void work.finally(() => this.#underWay.delete(work))
    })
    this.#tag = consumerTag
  }

  /** The answer is the broker's before the request is taken out of the queue: a crash in between sends it twice. */
  async #handle(channel: Channel, message: ConsumeMessage): Promise<void> {
    const { content, fields, properties } = message
    let answer: RpcAnswer
    try {
      answer = await this.#options.answer({ routingKey: fields.routingKey, body: content })
    } catch (error) {
      this.#options.logger.warn({ reason: reasonOf(error) }, 'a request for users goes back into its queue')
      await new Promise((resolve) => setTimeout(resolve, PAUSE))
      if (!this.#ended) channel.nack(message, false, true)
      return
    }
    if ('error' in answer && DEAD.has(answer.error)) {
      await this.#keep(message, answer.error)
    }
    const { replyTo, correlationId } = properties as { replyTo?: string; correlationId?: string }
    if (typeof replyTo === 'string' && replyTo !== '') {
      const reply = {
        contentType: 'application/msgpack',
        ...(correlationId === undefined ? {} : { correlationId }),
      }
      await this.#trySend('', replyTo, encodeBody(answer), reply)
    }
    if (!this.#ended) channel.ack(message)
  }

  /** For people: why, and as much of it as is reasonable. */
  #keep({ content, fields, properties }: ConsumeMessage, reason: string): Promise<void> {
    const headers = { 'x-reason': reason, 'x-routing-key': fields.routingKey, 'x-length': content.length }
    const body = content.length > MAX_REQUEST ? Buffer.alloc(0) : content
    const correlation = typeof properties.correlationId === 'string' ? properties.correlationId : undefined
    return this.#trySend('', DEAD_QUEUE, body, {
      headers,
      persistent: true,
      ...(correlation === undefined ? {} : { correlationId: correlation }),
    })
  }

  /** A name that the broker does not take for a queue ends the channel; that is the caller's affair, not ours. */
  async #trySend(...args: Parameters<Consumer['send']>): Promise<void> {
    try {
      await this.send(...args)
    } catch (error) {
      if (this.#ended) return
      this.#options.logger.warn({ reason: reasonOf(error) }, 'the message broker did not take an answer')
    }
  }

  /** Resolves when the broker has the message. @throws {TimoneError} `unavailable` */
  async send(exchange: string, key: string, body: Buffer, options: object): Promise<void> {
    const channel = await this.#openSender()
    await new Promise<void>((resolve, reject) => {
      const fail = (error: unknown): void =>
        reject(new TimoneError('unavailable', 'the message broker did not take a message', { cause: error }))
      channel.once('close', fail)
      try {
        channel.publish(exchange, key, body, options, (error) => {
          channel.off('close', fail)
          if (error) fail(error)
          else resolve()
        })
      } catch (error) {
        channel.off('close', fail)
        fail(error)
      }
    })
  }

  /** What is sent has a channel of its own: an error there ends none of the requests under way. */
  #openSender(): Promise<ConfirmChannel> {
    this.#sender ??= (async () => {
      const channel = await this.#connection.createConfirmChannel()
      channel.setMaxListeners(0)
      const forget = (): void => {
        this.#sender = undefined
      }
      channel.on('error', forget)
      channel.on('close', forget)
      return channel
    })().catch((error: unknown) => {
      this.#sender = undefined
      throw new TimoneError('unavailable', 'the message broker opens no channel', { cause: error })
    })
    return this.#sender
  }

  async drain(): Promise<void> {
    if (this.#ended) return
    await within(DRAIN, async () => {
      await this.#requests?.cancel(this.#tag)
      while (this.#underWay.size > 0) await Promise.all(this.#underWay)
    })
  }

  async close(): Promise<void> {
    await this.drain()
    if (this.#ended) return
    this.#ended = true
    await within(CLOSE, async () => {
      await this.#requests?.close()
      await this.#connection.close()
    })
  }

  #lose(error: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#options.lost(error ?? new TimoneError('unavailable', 'the message broker closed the connection'))
  }
}

/** A broker that is gone answers nothing: then this ends all the same. */
async function within(milliseconds: number, work: () => Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds)
  })
  await Promise.race([work().catch(() => {}), late])
  clearTimeout(timer)
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : 'unknown reason'
}
