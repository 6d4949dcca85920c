import net from 'node:net'

/**
 * Loaded into `timone serve` by NODE_OPTIONS: connections to one local port go to another one. A server stands next to its
 * store, so its own calls must not take the long line that its clients are told to use.
 */
const [from, to] = (process.env.NEXT_TO_STORE ?? '').split(':')
const { connect } = net.Socket.prototype

/** A copy where it differs: the caller, an HTTP agent, finds its sockets again by what it handed in. */
const redirect = (options: unknown): unknown =>
  options !== null && typeof options === 'object' && String((options as { port?: unknown }).port) === from
    ? { ...options, port: Number(to) }
    : options

net.Socket.prototype.connect = function (this: net.Socket, ...args: unknown[]) {
  // Node's own callers hand in their arguments as one list, made for this call.
  if (Array.isArray(args[0])) args[0][0] = redirect(args[0][0])
  else args[0] = redirect(args[0])
  return Reflect.apply(connect, this, args)
} as typeof connect
