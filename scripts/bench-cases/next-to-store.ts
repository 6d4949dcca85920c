import net from 'node:net'

/**
 * Loaded into `timone serve` by NODE_OPTIONS: connections to one local port go to another one. A server stands next to its
 * store, so its own calls must not take the long line that its clients are told to use.
 */
const [from, to] = (process.env.NEXT_TO_STORE ?? '').split(':')
const { connect } = net.Socket.prototype
net.Socket.prototype.connect = function (this: net.Socket, ...args: unknown[]) {
  // Node's own callers hand in their arguments as one list.
  const first = Array.isArray(args[0]) ? args[0][0] : args[0]
  if (first !== null && typeof first === 'object' && String((first as { port?: unknown }).port) === from)
    (first as { port: unknown }).port = Number(to)
  return Reflect.apply(connect, this, args)
} as typeof connect
