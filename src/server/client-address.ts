import { BlockList, isIP } from 'node:net'

/** Longest `X-Forwarded-For` that is looked at, characters; nobody has that many proxies. */
const MAX_HEADER = 4096

/**
 * Says where a request came from: the other end of the connection, or what a proxy says that is trusted. Anybody can
 * send `X-Forwarded-For`, so it is read from its end, which the proxy nearest to us has written, and only as far as
 * trusted proxies have written it.
 */
export class ClientAddresses {
  readonly #trusted = new BlockList()
  readonly #trustsAny: boolean

  /** @param proxies addresses, or networks as 10.0.0.0/8; checked by `readProxies` */
  constructor(proxies: readonly string[]) {
    for (const proxy of proxies) {
      const [address = '', bits] = proxy.split('/')
      const family = isIP(address) === 6 ? 'ipv6' : 'ipv4'
      if (bits === undefined) this.#trusted.addAddress(address, family)
      else this.#trusted.addSubnet(address, Number(bits), family)
    }
    this.#trustsAny = proxies.length > 0
  }

  /** `peer`: the other end of the connection; `forwarded`: the header. Empty when nothing is known. */
  of(peer: string | undefined, forwarded: string | string[] | undefined): string {
    let address = plain(peer ?? '')
    if (!this.#trustsAny || forwarded === undefined || !this.#isTrusted(address)) return address
    const header = [forwarded].flat().join(',')
    const hops = header.slice(-MAX_HEADER).split(',')
    for (const hop of hops.reverse()) {
      const next = readHop(hop)
      // What is no address was not written by a proxy that can be trusted.
      if (next === undefined) break
      address = next
      if (!this.#isTrusted(address)) break
    }
    return address
  }

  #isTrusted(address: string): boolean {
    const family = isIP(address)
    return family !== 0 && this.#trusted.check(address, family === 6 ? 'ipv6' : 'ipv4')
  }
}

/** An address, with or without a port: 192.0.2.1:443, [2001:db8::1]:443. */
function readHop(text: string): string | undefined {
  const hop = text.trim()
  const [, bracketed] = /^\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?$/.exec(hop) ?? []
  const [, withPort] = /^(\d{1,3}(?:\.\d{1,3}){3}):\d{1,5}$/.exec(hop) ?? []
  const address = plain(bracketed ?? withPort ?? hop)
  return isIP(address) === 0 || address.includes('%') ? undefined : address
}

/** An IPv4 address that a socket for both families shows as IPv6. */
function plain(address: string): string {
  const [, ipv4] = /^::ffff:(\d{1,3}(?:\.\d{1,3}){3})$/i.exec(address) ?? []
  return ipv4 ?? address
}
