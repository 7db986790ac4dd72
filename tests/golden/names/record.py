# Writes record-v1.bin into the current folder: an IPNS record made without any code of pxfs.
import hashlib
p=2**255-19; L=2**252+27742317777372353535851937790883648493; d=-121665*pow(121666,p-2,p)%p
I=pow(2,(p-1)//4,p)
def xrec(y):
    xx=(y*y-1)*pow(d*y*y+1,p-2,p); x=pow(xx,(p+3)//8,p)
    if (x*x-xx)%p: x=x*I%p
    if x%2: x=p-x
    return x
By=4*pow(5,p-2,p)%p; B=(xrec(By),By)
def add(P,Q):
    x1,y1=P;x2,y2=Q
    k=d*x1*x2*y1*y2
    return ((x1*y2+x2*y1)*pow(1+k,p-2,p)%p,(y1*y2+x1*x2)*pow(1-k,p-2,p)%p)
def mul(P,e):
    R=(0,1)
    while e:
        if e&1:R=add(R,P)
        P=add(P,P); e>>=1
    return R
def enc(P): return (P[1]|((P[0]&1)<<255)).to_bytes(32,'little')
def keys(seed):
    h=hashlib.sha512(seed).digest()
    a=int.from_bytes(h[:32],'little'); a&=(1<<254)-8; a|=1<<254
    return a,h[32:],enc(mul(B,a))
def sign(seed,m):
    a,pre,pk=keys(seed)
    r=int.from_bytes(hashlib.sha512(pre+m).digest(),'little')%L
    R=enc(mul(B,r))
    k=int.from_bytes(hashlib.sha512(R+pk+m).digest(),'little')%L
    return R+((r+k*a)%L).to_bytes(32,'little')
def uv(n):
    o=b''
    while n>=128: o+=bytes([n&127|128]); n>>=7
    return o+bytes([n])
def head(major,n):
    if n<24: return bytes([major<<5|n])
    for i,w in ((24,1),(25,2),(26,4),(27,8)):
        if n<1<<(8*w): return bytes([major<<5|i])+n.to_bytes(w,'big')
def text(s): return head(3,len(s))+s.encode()
def byts(b): return head(2,len(b))+b
def fb(tag,b): return uv(tag<<3|2)+uv(len(b))+b
def fv(tag,n): return uv(tag<<3)+uv(n)
def b32(b):
    import base64; return base64.b32encode(b).decode().lower().rstrip('=')
seed=bytes([3]*32)
cid='b'+b32(bytes([1,0x55,0x12,0x20])+hashlib.sha256(b'usage metadata').digest())
value=('/btfs/'+cid).encode(); validity=b'2033-05-18T03:33:20.000000000Z'
seq=7*2**20+2; ttl=60*10**9
data=head(5,5)+text('TTL')+head(0,ttl)+text('Value')+byts(value)+text('Sequence')+head(0,seq)+text('Validity')+byts(validity)+text('ValidityType')+head(0,0)
rec=fb(1,value)+fb(2,sign(seed,value+validity+b'EOL'))+fv(3,0)+fb(4,validity)+fv(5,seq)+fv(6,ttl)+fb(8,sign(seed,b'ipns-signature:'+data))+fb(9,data)
open('record-v1.bin','wb').write(rec)
print(len(rec))
