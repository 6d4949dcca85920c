/**
 * One cookie of a `Cookie` header (RFC 6265, section 4.2.1).
 * @returns undefined when it is absent, or there twice: then it is not clear whose it is
 */
export function readCookie(header: string | undefined, name: string): string | undefined {
  const values = (header ?? '')
    .split(';')
    .map((pair) => pair.trim())
    .filter((pair) => pair.startsWith(`${name}=`))
    .map((pair) => pair.slice(name.length + 1))
  return values.length === 1 ? values[0] : undefined
}
